"""How the stand-in behaves: the faults that it can be told to make, and the settings of its command line."""

from __future__ import annotations

import dataclasses
import hashlib

from sifthinker.llm.standin.replies import CONTENT

# Drawn anew for every try of a request.
TRANSPORT = ("429", "429-retry-after", "500", "502", "stall", "reset", "malformed-json")
FAULTS = TRANSPORT + CONTENT  # the latter drawn once for a request, like a model's own mistakes


@dataclasses.dataclass
class Settings:
    """How the server behaves; the options of the command line."""

    faults: dict[str, float] = dataclasses.field(default_factory=dict)  # kind -> share of requests, 0..1
    seed: int = 0  # of the faults
    latency: float = 0.0  # seconds before an answer
    jitter: float = 0.0  # share by which the latency differs from request to request
    stall: float = 3600.0  # seconds of a "stall", which ends without an answer
    retry_after: float = 0.2  # seconds, of "429-retry-after"
    slow_start: float = 0.0  # seconds of 503 after the start
    requests_per_minute: int = 0  # quota; 0 = none
    tokens_per_minute: int = 0
    minute: float = 60.0  # seconds of the quota's window
    batch_seconds: float = 0.2  # until a batch is completed
    key: str = ""  # the API key that is asked for; "" = none

    def __post_init__(self) -> None:
        """Checks the kinds of faults.

        Raises:
            ValueError: a kind is none of `FAULTS`.
        """
        unknown = set(self.faults) - set(FAULTS)
        if unknown:
            raise ValueError(f"unknown faults {sorted(unknown)}; known: {', '.join(FAULTS)}")

    def draw(self, purpose: bytes, name: bytes) -> float:
        """A number in 0..1 that depends on the request and the seed alone."""
        digest = hashlib.sha256(b"%d %s %s" % (self.seed, purpose, name)).digest()
        return int.from_bytes(digest[:7], "big") / 2**56

    def fault(self, kinds: tuple[str, ...], name: bytes) -> str | None:
        """The fault of these kinds that strikes the request `name`, if one does."""
        draw = self.draw(kinds[0].encode(), name)
        for kind in kinds:
            draw -= self.faults.get(kind, 0.0)
            if draw < 0:
                return kind
        return None

"""How far an evaluation is, for whoever watches it: questions scored, and how many replies could not be read so far."""

from __future__ import annotations

from dataclasses import dataclass

from sifthinker import llm
from sifthinker.llm.call_counts import Counts

_NOTHING = Counts(0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, "", 0.0, None)


@dataclass(slots=True)
class Progress:
    """Counts on behalf of one evaluation; read from another thread. Nothing here reaches a result."""

    client: llm.Client | None = None  # counts the questions; None until they are asked
    depths: int = 0  # pictures whose depth has been estimated
    unparsable: int = 0  # replies that the strict rule could not read
    scored: int = 0

    def began(self, client: llm.Client, questions: int) -> None:
        """From now on so many questions are asked through this client."""
        self.client = client
        client.expect(questions)

    def reply(self, unparsable: str) -> None:
        """One reply was scored; `unparsable` is why it could not be read, "" where it was."""
        self.scored += 1
        self.unparsable += bool(unparsable)
        if self.client is not None:
            self.client.row_done(True)

    def lost(self, questions: int) -> None:
        """So many questions could not be asked."""
        for _ in range(questions if self.client is not None else 0):
            assert self.client is not None
            self.client.row_done(False)

    def counts(self) -> Counts:
        """What the client has counted so far."""
        return _NOTHING if self.client is None else self.client.progress()

    def line(self, counts: Counts) -> str:
        """One line for a person."""
        if self.client is None:
            return f"{self.depths:,} depth pictures made"
        share = f" ({self.unparsable / self.scored:.1%})" if self.scored else ""
        return f"{self.unparsable:,} unparsable{share} so far, {counts.line()}"

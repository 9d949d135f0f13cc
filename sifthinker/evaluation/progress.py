"""How far an evaluation is, for whoever watches it: questions scored, and how many replies could not be read so far."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

from sifthinker import llm
from sifthinker.llm.call_counts import Counts

_NOTHING = Counts(0, 0, 0, 0, 0, 0, 0, 0, 0, 0.0, "", 0.0, None)


@dataclass(slots=True)
class Progress:
    """Counts on behalf of one evaluation; read from another thread. Nothing here reaches a result."""

    depths: int = 0  # pictures whose depth has been estimated
    unparsable: int = 0  # replies that the strict rule could not read
    scored: int = 0
    _client: llm.Client | None = None  # counts the questions while they are asked
    _last: Counts | None = None  # after that
    _lock: threading.Lock = field(default_factory=threading.Lock)  # no client is asked that is being closed

    @contextlib.contextmanager
    def asking(self, client: llm.Client, questions: int) -> Iterator[None]:
        """Meanwhile so many questions are asked through this client."""
        client.expect(questions)
        self._client = client
        try:
            yield
        finally:
            with self._lock:
                self._last, self._client = client.progress(), None

    def reply(self, unparsable: str) -> None:
        """One reply was scored; `unparsable` is why it could not be read, "" where it was."""
        self.scored += 1
        self.unparsable += bool(unparsable)
        if self._client is not None:
            self._client.row_done(True)

    def lost(self, questions: int) -> None:
        """So many questions could not be asked."""
        for _ in range(questions):
            if self._client is not None:
                self._client.row_done(False)

    def counts(self) -> Counts:
        """What the client has counted so far."""
        with self._lock:
            return self._client.progress() if self._client is not None else self._last or _NOTHING

    def line(self, counts: Counts) -> str:
        """One line for a person."""
        if not counts.rows_total:
            return f"{self.depths:,} depth pictures made"
        share = f" ({self.unparsable / self.scored:.1%})" if self.scored else ""
        so_far = " so far" if counts.rows_done < counts.rows_total else ""
        return f"{self.unparsable:,} unparsable{share}{so_far}, {counts.line()}"

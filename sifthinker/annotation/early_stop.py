"""Stops a stage whose first rows are all rejected, before the others are paid for.

A wrong model name, a parameter that the endpoint does not take or a model that cannot follow the prompt fails every
row alike. The first rows show it. All shards of a stage share one engine, and so they share what is seen here.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import asdict
from weakref import WeakKeyDictionary

from sifthinker.core import rejects
from sifthinker.core.errors import UserError
from sifthinker.core.records import Annotation, Reject
from sifthinker.llm.dispatcher import Engine

_ADVICE = {
    "bad-request": "Change what the endpoint does not take: its message names it (api.extra, api.token_limit_field and "
    "api.leave_out change the body). If the endpoint itself was mended, `sif annotate --again --reason bad-request` asks "
    "again what is refused in the ledger.",
    "cut-off": "Raise annotate.max_tokens.",
    "content-filter": "The provider blocks these pictures or questions: use another model.",
    "exhausted": "See that the endpoint answers, then start again.",
    "timeout": "See that the endpoint answers, or raise api.timeout.",
    "unreadable": "See that base_url is that of an OpenAI-compatible endpoint.",
    "judge": "The judge is annotate's own model: use one that answers with a score, or raise api.judge_tokens "
    "where its reply was cut off.",
}
_OTHERWISE = "Use a model that follows the prompt, or another annotate.prompt."


class Hopeless(UserError):
    """No row of the first ones was accepted."""


class First:
    """The first rows of a stage, whichever shard they are of."""

    def __init__(self) -> None:
        """Before any row."""
        self._lock = threading.Lock()
        self._kept = False
        self._rejected: Counter[str] = Counter()

    def saw(self, row: Annotation | Reject, most: int, engine: Engine) -> None:
        """Takes note of a finished row; stops the engine at the `most`-th if none was accepted (0 = never)."""
        with self._lock:
            if self._kept or not most:
                return
            if isinstance(row, Annotation):
                self._kept = True
                return
            self._rejected[row.reason] += 1
            if self._rejected.total() >= most and engine.stopped is None:
                engine.stopped = Hopeless(_told(self._rejected, row))


def advice(reason: str) -> str:
    """What to change where rows are rejected for this reason."""
    return _ADVICE.get(reason, _OTHERWISE)


def _told(rejected: Counter[str], row: Reject) -> str:
    return (
        f"the first {rejected.total()} rows were all rejected: {rejects.counted(rejected)}. The rest is not asked.\n"
        f"The last of them is {rejects.described(asdict(row))}\n"
        f"{advice(rejected.most_common(1)[0][0])} What was paid is kept in the ledger. annotate.give_up_after = 0 goes on nevertheless."
    )


_first: WeakKeyDictionary[Engine, First] = WeakKeyDictionary()
_lock = threading.Lock()


def first(engine: Engine) -> First:
    """The first rows of the stage that this engine works for; an engine lives as long as its stage."""
    with _lock:
        return _first.setdefault(engine, First())

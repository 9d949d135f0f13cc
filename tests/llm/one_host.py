"""A host of its own, for tests of ledgers that several share: another home, another clock, the same database.

`python tests/llm/one_host.py SETTINGS.json` asks the questions that the settings name and writes the answers. SIF_LEDGER
names the database.
"""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path
from typing import Any


def main(settings: dict[str, Any]) -> None:
    """Asks, with a clock that is `skew` seconds off."""
    now, monotonic, skew = time.time, time.monotonic, float(settings["skew"])
    time.time = lambda: now() + skew
    time.monotonic = lambda: monotonic() + abs(skew)
    from sifthinker import llm
    from sifthinker.config import Api
    from sifthinker.llm import bookkeeping, dispatcher, judge, rate_limits
    from sifthinker.llm.ledger_postgres import PostgresLedger

    rate_limits.MINUTE = settings["minute"]
    lease = dispatcher.LEASE = settings["lease"]
    bookkeeping.open_ledger = lambda _: PostgresLedger(bookkeeping.database(), lease)
    numbers = [int(number) for number in settings["questions"]]
    random.Random(settings["name"]).shuffle(numbers)
    requests = [judge.request("q", "a", f"answer number {number}.") for number in numbers]
    api = Api.model_validate(settings["api"])
    with llm.Client(api, bookkeeping.place(Path.home()), settings["url"]) as client:
        replies = client.ask_all(requests)
        cached = client.progress().cached
    answers = {
        number: reply.text if isinstance(reply, llm.Reply) else f"{reply.kind}: {reply.detail}"
        for number, reply in zip(numbers, replies, strict=True)
    }
    Path(settings["out"]).write_text(json.dumps({"answers": answers, "cached": cached}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))

"""Takes the calls of a ledger's file into another ledger: what was paid before is not paid again."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from itertools import islice
from pathlib import Path

from sifthinker.core.errors import UserError
from sifthinker.llm.ledger import Ledger
from sifthinker.llm.usage import Usage

_CHUNK = 500  # calls in one transaction
_CALLS = (
    "SELECT key, account, CASE state WHEN 'reserved' THEN 'failed' ELSE state END, request, reply, finish_reason, model,"
    " kind, detail, prompt_tokens, cached_tokens, completion_tokens, money, seconds FROM calls ORDER BY key"
)
_NOTED = "SELECT 1 FROM sqlite_master WHERE name = 'currencies'"  # an earlier release noted none
_CURRENCIES = "SELECT account, currency FROM currencies"
_BATCHES = "SELECT id, account, state, keys FROM batches WHERE state != 'done' ORDER BY at, id"


def take_over(file: Path, ledger: Ledger) -> tuple[int, int]:
    """Copies what `file` holds and `ledger` does not; how many calls were copied, and how many were there already.

    The cost of a copied call is added to its account. It may be repeated: the second time everything is there.

    Raises:
        UserError: the file is no ledger.
    """
    if not file.is_file():
        raise UserError(f"{file}: no such file; give the ledger of a store, <store>/calls.sqlite")
    taken = there = 0
    try:
        with closing(sqlite3.connect(f"{file.resolve().as_uri()}?mode=ro", uri=True, timeout=60)) as source:
            for batch in source.execute(_BATCHES):
                ledger.together(lambda batch=batch: ledger.adopt_batch(*batch))  # type: ignore[misc]
            for account, currency in source.execute(_CURRENCIES) if source.execute(_NOTED).fetchone() else ():
                ledger.note_currency(account, currency, alone=False)
            calls = source.execute(_CALLS)
            while chunk := list(islice(calls, _CHUNK)):
                added = ledger.together(lambda chunk=chunk: sum(_adopt(ledger, call) for call in chunk))  # type: ignore[misc]
                taken += added
                there += len(chunk) - added
    except sqlite3.Error as error:
        raise UserError(f"{file}: it cannot be read as a ledger of paid calls: {error}") from error
    return taken, there


def _adopt(ledger: Ledger, call: tuple[object, ...]) -> bool:
    key, account, *rest, prompt, cached, completion, money, seconds = call
    tokens = Usage(0, int(str(prompt)), int(str(cached)), int(str(completion)), float(str(money)))
    paid = tokens + Usage(1) if tokens != Usage() else tokens
    return ledger.adopt(str(key), str(account), [*rest, seconds], paid)

"""Refused is not for ever: requests that the ledger holds as refused are asked again, once the cause is mended."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from sifthinker.core.errors import UserError
from sifthinker.llm import bookkeeping
from sifthinker.store.artifacts import Store

REFUSED = ("bad-request", "content-filter")  # kinds of failure that the ledger keeps for good
# Rejected for what a model replied: an equal request has an equal reply in the ledger.
ANSWERED = "--again asks what was refused; for a reply that was not accepted use --retry with another --model, --prompt, "


def revive(store: Store, reasons: Sequence[str]) -> int:
    """Lets the refused requests be asked again, of all reasons or of some; how many there are.

    Reasons of requests that were never answered (exhausted, timeout, unreadable) are asked again anyway.

    Raises:
        UserError: a reason is none for which asking again as before would help.
    """
    place = bookkeeping.place(store.root)
    unknown = set(reasons) - {*REFUSED, "exhausted", "timeout", "unreadable", "judge"}
    if unknown:
        raise UserError(f"annotate --again: {', '.join(sorted(unknown))}: {ANSWERED}--temperature or --seed")
    if isinstance(place, Path) and not place.exists():
        raise UserError(f"annotate --again: {place} does not exist: nothing was asked yet")
    book = bookkeeping.open_ledger(place)
    try:
        every = not reasons or "judge" in reasons  # the judge was refused for either
        kinds = [kind for kind in REFUSED if every or kind in reasons]
        return sum(book.revive(kind) for kind in kinds)
    finally:
        book.close()

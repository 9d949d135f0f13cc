"""Stage retry: dead letters. The rows that annotate rejected are asked again, alone, with another model or prompt.

Reads what annotate read and wrote, writes `CHAINS`: annotate's chains as they are, and those of the rows whose new
reply was accepted, in the samples' order. A row that is rejected again keeps every attempt of every pass. Nothing is
asked for the other rows, and an accepted chain carries the model that wrote it.
"""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sifthinker.annotation.annotate import annotate
from sifthinker.config import Again, Annotate
from sifthinker.core.errors import UserError
from sifthinker.core.images import ImageLibrary
from sifthinker.core.records import Annotation, DepthMap, Focus, Reject, Sample
from sifthinker.core.rejects import attempts
from sifthinker.llm import Client

# Never answered: asked again even by an equal request. Every other reply is in the ledger for good.
UNANSWERED = {"exhausted", "timeout", "unreadable"}
# Nothing to do with what a model replied: these rows could not be asked at all.
_UNASKED = {"focus-missing", "depth-missing", "focus-mismatch", "not-needed"}

Pass = tuple[frozenset[str], Client, Annotate]  # reasons (none = any), whom to ask, and how


def over(again: Again, annotate: Annotate) -> Annotate:
    """The annotator of a pass: what the pass leaves out is annotate's."""
    names = ("api", "prompt", "temperature", "seed", "attempts")
    changes = {name: value for name in names if (value := getattr(again, name)) is not None}
    if again.model is not None:
        changes["api"] = (again.api or annotate.api).model_copy(update={"model": again.model})
    return annotate.model_copy(update=changes)


def retry(
    samples: Callable[[], Iterable[Sample]],
    focus: Callable[[], Iterable[Focus]],
    maps: Callable[[], Iterable[DepthMap]],
    chains: Iterable[Annotation],
    rejects: Iterable[Reject],
    library: ImageLibrary,
    passes: Sequence[Pass],
) -> Iterator[Annotation | Reject]:
    """Every sample's chain or reject, in order; of the rows, only the rejected ones are in memory.

    Args:
        samples: of one part, read anew by every pass, as are `focus` and `maps`.
        focus: where the chains look.
        maps: of the images.
        chains: annotate's, in the samples' order.
        rejects: annotate's.
        library: the image folders, with the limit that ingest had.
        passes: one after the other, each over what is rejected by then.

    Raises: see `annotate.annotate`.
    """
    left = {row.id: row for row in rejects}
    mended: dict[str, Annotation] = {}
    for reasons, client, config in passes:
        ids = {row.id for row in asked_again(left.values(), reasons)}
        if not ids:
            continue
        again = annotate(
            (row for row in samples() if row.id in ids),
            (row for row in focus() if row.id in ids),
            maps(),
            library,
            client,
            config.model_copy(update={"give_up_after": 0}),  # what was rejected once may well be again
        )
        for result in again:
            before = attempts(left[result.id].detail)
            if isinstance(result, Annotation):
                del left[result.id]
                mended[result.id] = _after(result, before)
            else:
                tried = attempts(result.detail)
                detail = json.dumps([*before, *tried], ensure_ascii=False) if tried else result.detail
                left[result.id] = dataclasses.replace(result, detail=detail)
    accepted = iter(chains)
    for row in samples():
        if row.id in left:
            yield left[row.id]
        elif row.id in mended:
            yield mended[row.id]
        else:
            chain = next(accepted, None)
            assert chain is not None and chain.id == row.id, (
                "chains and samples are of one part, in one order"
            )
            yield chain
    assert next(accepted, None) is None, "chains and samples are of one part"


def _after(chain: Annotation, before: Sequence[Mapping[str, Any]]) -> Annotation:
    """A chain with the attempts of earlier passes, and what those cost, added to its own."""
    return dataclasses.replace(
        chain,
        attempts=len(before) + chain.attempts,
        prompt_tokens=chain.prompt_tokens + sum(one.get("prompt_tokens", 0) for one in before),
        completion_tokens=chain.completion_tokens + sum(one.get("completion_tokens", 0) for one in before),
    )


def asked_again(rejects: Iterable[Reject], reasons: Collection[str]) -> list[Reject]:
    """Those that a pass asks again: rejected for one of the reasons (none = any), and at all askable."""
    return [row for row in rejects if row.reason not in _UNASKED and (not reasons or row.reason in reasons)]


def not_found(reasons: Iterable[str], rejects: Iterable[Reject]) -> str:
    """The reasons for which no row was rejected that could be asked again, and those that there are; "" without the first."""
    counts = Counter(row.reason for row in asked_again(rejects, ()))
    if not (absent := sorted(set(reasons) - counts.keys())):
        return ""
    there = ", ".join(f"{reason} ({rows:,})" for reason, rows in counts.most_common())
    return f"no row was rejected for {', '.join(absent)}; the rows that can be asked again: {there or 'none'}"


def check(passes: Sequence[tuple[Iterable[str], Annotate]], first: Annotate) -> None:
    """Refuses a pass that would get the answers that are in the ledger.

    Raises:
        UserError: it asks what `first` asked.
    """
    for reasons, config in passes:
        same = config.model_copy(update={"api": first.api, "attempts": first.attempts}) == first
        where = (config.api.base_url, config.api.model) == (first.api.base_url, first.api.model)
        if same and where and not (set(reasons) and set(reasons) <= UNANSWERED):
            raise UserError(
                "retry: this pass asks what annotate asked, and the answers are in the ledger: give it another "
                "model, prompt, temperature or seed (what was never answered may be asked as it was: reasons "
                f"{', '.join(sorted(UNANSWERED))})"
            )

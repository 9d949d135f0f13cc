"""The page of a preview: the first chains, drawn on their pictures, with what the whole data set would cost."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from sifthinker.core import chain, drawing
from sifthinker.core.depth_maps import decode_bytes, render
from sifthinker.core.errors import UserError
from sifthinker.core.images import ImageLibrary, data_url, rgb
from sifthinker.core.records import Annotation, DepthMap, Region, Reject, Sample
from sifthinker.core.rejects import attempts
from sifthinker.reporting import pages

_SHOWN = 2000  # characters of a refused reply
Steps = tuple[tuple[Region, ...], ...]  # where a chain looks
Row = tuple[Sample, DepthMap, Steps, Annotation | Reject]  # and what became of it


@dataclass(frozen=True, slots=True)
class Card:
    """One row of the page."""

    sample: Sample
    photo: bytes
    map: DepthMap
    asked: Steps
    result: Annotation | Reject


def cards_of(rows: Iterable[Row], library: ImageLibrary) -> tuple[list[Card], list[str]]:
    """The cards of the rows, and for each row whose picture is gone or another one by now, a line that says so."""
    cards: list[Card] = []
    unseen: list[str] = []
    for row, depth, steps, result in rows:
        try:
            photo = library.of(row).data
        except UserError as error:
            unseen.append(f"{row.id} is not on the page: {error}")
        else:
            cards.append(Card(row, photo, depth, steps, result))
    return cards, unseen


def render_page(name: str, lines: Sequence[str], sent: Sequence[str], cards: Sequence[Card]) -> str:
    """The page as HTML, which needs no network.

    Args:
        name: of the configuration.
        lines: what came of it, and what the whole would cost.
        sent: the requests, without their messages.
        cards: the rows.
    """
    shown = [_shown(card) for card in cards]
    return pages.render("preview.html.jinja", name=name, lines=lines, sent=sent, cards=shown)


def _shown(card: Card) -> dict[str, object]:
    sample, result = card.sample, card.result
    steps = [[region.box for region in step] for step in card.asked]
    relief = render(decode_bytes(card.map.png, name=f"depth map of {sample.id}")).convert("RGB")
    picture = drawing.chain_picture(rgb(card.photo), relief, steps, sample.boxes)
    told = {
        "id": sample.id,
        "question": sample.question,
        "reference": sample.answer,
        "picture": data_url(drawing.encode(picture)),
        "colours": [drawing.colour(number) for number in range(len(steps))],
    }
    if isinstance(result, Annotation):
        parsed = chain.parse(result.chain)
        return told | {
            "texts": [step.text for step in parsed.steps],
            "answer": parsed.answer,
            "tries": result.attempts,
            "reason": "",
            "attempts": [],
        }
    tried = [{"reason": one["reason"], "text": one["text"][:_SHOWN]} for one in attempts(result.detail)]
    return told | {
        "texts": [],
        "answer": "",
        "tries": len(tried),
        "reason": result.reason,
        "attempts": tried or [{"reason": result.detail, "text": ""}],
    }

"""Stage expand: where the chain of each sample will look (reverse expansion, PAPER.md P3.1).

Reads `SAMPLES`, writes `FOCUS`. The geometry is `boxes.focus`; here it meets the rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from sifthinker import config
from sifthinker.core import boxes
from sifthinker.core.records import Focus, Reject, Sample


def expand(samples: Iterable[Sample], settings: config.Expand) -> Iterator[Focus | Reject]:
    """The focus of every sample, in order; one row out for each row in.

    Args:
        samples: with boxes in 0..1 of the image, and the image's size in pixels.
        settings: the stage's.

    Yields:
        A `Focus` with boxes in 0..1 (3 decimals), or a `Reject` with the reason `box-invalid` where `boxes.focus`
        refuses the sample's boxes.
    """
    for sample in samples:
        try:
            steps, distractor = boxes.focus(
                sample.id,
                sample.boxes,
                sample.width,
                sample.height,
                settings.variant,
                settings.distractor_share,
                settings.seed,
            )
        except ValueError as error:
            yield Reject("expand", "box-invalid", str(error), sample.id, sample.source, field="boxes")
            continue
        yield Focus(sample.id, sample.image_sha256, tuple(map(tuple, steps)), distractor)

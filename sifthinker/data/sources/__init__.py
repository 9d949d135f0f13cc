"""The annotation formats that can be ingested. A new one is a file here, an entry below, and a test.

The file gives one function, `read`; from its entry follow the choices of `sources[].format` in a configuration, what
`ingest` reads, and the files that the benchmark `sif` may have.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from sifthinker import config
from sifthinker.core.records import Reject, Sample
from sifthinker.data.sources import fields, sif50k, tallyqa, viscot
from sifthinker.data.sources.fields import Row

__all__ = ["SOURCES", "Format", "Row"]


@dataclass(frozen=True, slots=True)
class Format:
    """A format of annotations.

    Attributes:
        read: gives the rows of a file, images unopened, and why others are none: `read(path, images, source)` of the
            annotation file, the folder of its images (None: no image is opened) and its section of the configuration.
            Raises `UserError` where the file cannot be read, after the good rows before that.
        chains: its rows bring their chains, which are taken and not bought.
    """

    read: Callable[[Path, Path | None, config.Source], Iterator[Row | Reject]]
    chains: bool = False

    def __call__(self, path: Path, images: Path | None, source: config.Source) -> Iterator[Sample | Reject]:
        """The samples of a file, with the image of each opened and decoded (`images` None: none is opened).

        Raises:
            UserError: see `read`.
        """
        return fields.complete(self.read(path, images, source), images, fields.MAX_PIXELS)


SOURCES: dict[str, Format] = {
    "viscot": Format(viscot.read),
    "tallyqa": Format(tallyqa.read),
    "published": Format(sif50k.read, chains=True),
}

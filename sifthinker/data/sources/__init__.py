"""The annotation formats that can be ingested. A new one is a file here, an entry below, and a test.

The file gives one function, `parser`; from its entry follow the choices of `sources[].format` in a configuration, what
`ingest` reads, and the files that the benchmark `sif` may have.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sifthinker import config
from sifthinker.core.images import BadImage
from sifthinker.core.records import Reject, Sample
from sifthinker.data.disk_dict import Spill
from sifthinker.data.sources import fields, files, frames, sif50k, tallyqa, viscot
from sifthinker.data.sources.fields import Parse, Picture, Row

__all__ = ["SOURCES", "Format", "Parser", "Row"]


Parser = Callable[[Path, Path | None, config.Source, str], Parse]


@dataclass(frozen=True, slots=True)
class Format:
    """A format of annotations.

    Attributes:
        parser: gives what makes a row of a value of the file: `parser(path, images, source, frame)` of the annotation file,
            the folder of its images (None: no image is opened), its section of the configuration and `frame(...)`.
        frame: what the boxes of the file are, of its path and of what the configuration declares.
        chains: its rows bring their chains, which are taken and not bought.
        rows: gives the number and the value of each row of a file: an object as JSON has it, or a `BadRow`.
    """

    parser: Parser
    frame: Callable[[Path, str], str] = lambda _, declared: declared
    chains: bool = False
    rows: Callable[[Path], Iterator[tuple[int, Any]]] = files.rows

    def read(self, path: Path, images: Path | None, source: config.Source) -> Iterator[Row | Reject]:
        """The rows of a file, images unopened, and why others are none; ids may repeat.

        Raises:
            UserError: the file cannot be read, is not JSON or is cut off, after the good rows before that; the frame of
                its boxes is not certain; or see its parser.
        """
        parse = self.parser(path, images, source, self.frame(path, source.frame))
        return fields.checked(self.rows(path), parse, source.name, path.name)

    def __call__(self, path: Path, images: Path | None, source: config.Source) -> Iterator[Sample | Reject]:
        """The samples of a file, with the image of each opened and decoded (`images` None: none is opened).

        An image that several rows show is read once. Of rows with one id, the first good one is a sample.

        Raises:
            UserError: see `read`; or the images, once all are opened, contradict the frame that is declared.
        """
        pictures: dict[tuple[str, ...], Picture | BadImage] = {}
        told: frames.Told = frames.Evidence()
        with Spill() as kept:
            for row in self.read(path, images, source):
                if isinstance(row, Reject):
                    yield row
                    continue
                if (first := kept.get(row.id)) is not None:
                    yield fields.repeated(row.id, first, source.name, path.name, row.number)
                    continue
                picture = None
                if images is not None:
                    if row.images not in pictures:
                        pictures[row.images] = fields.look(images, row, fields.MAX_PIXELS)
                    picture = pictures[row.images]
                made = fields.finish(row, picture)
                if isinstance(made, Sample):
                    kept[row.id] = row.number
                yield made
                found = fields.told(row, picture) if isinstance(picture, Picture) else None
                if found is not None:
                    told = (
                        told if type(told) is type(found) else type(found)()
                    )  # a file's rows tell one kind of thing
                    told.join(found)
        told.check(source.name, source.frame)


SOURCES: dict[str, Format] = {
    "viscot": Format(viscot.parser, frames.recognised),
    "tallyqa": Format(tallyqa.parser, frames.recognised),
    "published": Format(sif50k.parser, chains=True),
}

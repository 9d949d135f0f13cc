"""Where data and weights are published: the records of `sif data`, which stand in one table for each kind of thing.

Sizes are those that the publishers' pages show, in bytes; None: no page was found that says one. Licences are what the
publisher states; "not stated" and "not verified" say that somebody has to look before the files are used or passed on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

MB, GB = 1e6, 1e9
HUB = "https://huggingface.co"

Kind = Literal["dataset", "model", "web"]  # a repository of the Hugging Face hub, or a page
Goes = Literal["path", "path folder", "images", "beside images", "own folder"]


@dataclass(frozen=True, slots=True)
class Part:
    """Files that are fetched in one way and lie in one place.

    Attributes:
        what: in a few words.
        where: `owner/name` on the hub, or the address of a page.
        kind: what `where` is.
        size: bytes, together; None: not known.
        files: on the hub, patterns of the files that are wanted (`fnmatch`: "*" also matches "/"); elsewhere their names.
        goes: where they lie, in the words of the configuration: "path", as that very file; "path folder", in the folder
            that `path` is or lies in; "images", below that folder; "beside images", in a folder of their own next to it;
            "own folder", in one named after the repository, next to `path`.
        strip: the beginning of the files' names that falls away when they are put there.
        gated: whether the publisher asks for a name first.
        steps: what remains to be done by hand, a command or a sentence each. {path}, {folder} (of `path`), {images}, {fetched}
            (where the files were put) are filled in.
        splits: of the benchmark's splits, those that it is wanted for; (): all. "" is the default split.
    """

    what: str
    where: str
    kind: Kind
    size: float | None = None
    files: tuple[str, ...] = ()
    goes: Goes = "path folder"
    strip: str = ""
    gated: bool = False
    steps: tuple[str, ...] = ()
    splits: tuple[str, ...] = ()

    @property
    def address(self) -> str:
        """Of the page where a person looks."""
        if self.kind == "web":
            return self.where
        return f"{HUB}/{'datasets/' if self.kind == 'dataset' else ''}{self.where}"

    @property
    def fetchable(self) -> bool:
        """Whether `sif data --get` can fetch it."""
        return self.kind != "web"


@dataclass(frozen=True, slots=True)
class Way:
    """One way of having all that is wanted. `name` tells it from others."""

    name: str
    parts: tuple[Part, ...]
    note: str = ""  # what a person should know who takes it

    @property
    def size(self) -> float | None:
        """Bytes in all; None where a part's are not known."""
        sizes = [part.size for part in self.parts]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def of(self, split: str) -> Way:
        """What of it a split of a benchmark wants."""
        return Way(
            self.name,
            tuple(part for part in self.parts if not part.splits or split in part.splits),
            self.note,
        )


@dataclass(frozen=True, slots=True)
class Publication:
    """Where something is published.

    Attributes:
        licence: as the publisher states it.
        ways: each one is enough by itself; the first is the one that flows/configs/paper.yaml expects.
        note: what holds for all of them.
    """

    licence: str
    ways: tuple[Way, ...]
    note: str = ""

    @property
    def default(self) -> Way:
        """The first way that can be fetched whole, else the first."""
        whole = (way for way in self.ways if all(part.fetchable for part in way.parts))
        return next(whole, self.ways[0])

"""All that a configuration needs from elsewhere, with where it is published and its state."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from sifthinker.config import Config, Source
from sifthinker.config.choices import suggestion
from sifthinker.core.errors import UserError
from sifthinker.core.publications import GB, MB, Part, Publication, Way
from sifthinker.data.sources import published as of_sources
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.evaluation.benchmarks import published as of_benchmarks
from sifthinker.models import miniature
from sifthinker.models import published as of_weights
from sifthinker.store.artifacts import Store
from sifthinker.upkeep import data_checks
from sifthinker.upkeep.inputs import states
from sifthinker.upkeep.inputs.states import State
from sifthinker.upkeep.machine_checks import TINY

Kind = Literal["source", "benchmark", "weights"]
OWN = ("sif",)  # benchmarks that the paper does not have
OWN_FOLDER = "your own folder"


@dataclass(frozen=True, slots=True)
class Input:
    """A source, a benchmark or weights.

    Attributes:
        name: by which `sif data --get` knows it.
        kind: what it is.
        what: the format of a source, the split of a benchmark, the hub's name of weights.
        publication: where it is published; None: not known, or it is somebody's own.
        address: for a person, where there is no publication.
        state: whether it is here.
        path: of the configuration; none for weights.
        images: of the configuration.
        revision: of weights.
    """

    name: str
    kind: Kind
    what: str
    publication: Publication | None
    address: str
    state: State
    path: Path | None = None
    images: Path | None = None
    revision: str | None = None

    @property
    def split(self) -> str:
        """Of a benchmark; "" is its default."""
        return self.what if self.kind == "benchmark" else ""

    def ways(self) -> list[Way]:
        """The ways of having it, for its split."""
        return [way.of(self.split) for way in self.publication.ways] if self.publication else []

    def place(self, part: Part) -> Path | None:
        """Where the files of a part are put; None: into the hub's cache, from which a run takes weights."""
        if self.kind == "weights":
            return None
        assert self.path is not None, "a source and a benchmark have one"
        folder = self.path.parent if self.path.suffix else self.path
        return {
            "path": self.path,
            "path folder": folder,
            "images": self.images or folder,
            "beside images": (self.images or folder).parent / "cot_images_tar_split",
            "own folder": folder / part.where.rpartition("/")[2],
        }[part.goes]

    def steps(self, part: Part, fetched: Path | None = None) -> list[str]:
        """What remains to be done by hand, with this machine's paths."""
        where = fetched or self.place(part)
        folder = self.path.parent if self.path and self.path.suffix else self.path
        known = {"path": self.path, "folder": folder, "images": self.images or folder, "fetched": where}
        return [_filled(step, known) for step in part.steps]

    def as_json(self) -> dict[str, Any]:
        """For programs."""
        ways: list[dict[str, Any]] = []
        found = {
            "name": self.name,
            "kind": self.kind,
            "what": self.what,
            "state": self.state.verdict,
            "found": self.state.found,
            "path": str(self.path) if self.path else None,
            "images": str(self.images) if self.images else None,
            "licence": self.publication.licence if self.publication else None,
            "note": self.publication.note if self.publication else "",
            "address": self.address,
            "ways": ways,
        }
        for way in self.ways():
            parts = [
                {
                    "what": part.what,
                    "where": part.where,
                    "address": part.address,
                    "bytes": part.size,
                    "files": list(part.files),
                    "goes": str(self.place(part) or "the hub's cache"),
                    "gated": part.gated,
                    "get": "sif data --get" if part.fetchable else "by hand",
                    "steps": self.steps(part),
                }
                for part in way.parts
            ]
            ways.append({"name": way.name, "bytes": way.size, "note": way.note, "parts": parts})
        return found


def inputs(config: Config) -> list[Input]:
    """What the configuration needs, in the order of its stages; then the paper's benchmarks that it does not have."""
    return [*_sources(config), *_weights(config), *_benchmarks(config)]


def named(found: Sequence[Input], names: Sequence[str]) -> list[Input]:
    """The inputs of these names; all that are configured and not there, where none is named.

    Raises:
        UserError: there is none of a name.
    """
    if not names:
        return [item for item in found if item.state.verdict in ("missing", "broken")]
    known = list(dict.fromkeys(item.name for item in found))
    for name in names:
        if name not in known:
            close = suggestion(name, known) or "."
            raise UserError(f"--get: nothing is named {name!r}{close} Known: {', '.join(known)}")
    return [item for item in found if item.name in names]


def shown(size: float | None) -> str:
    """Bytes, for a person."""
    if size is None:
        return "size not known"
    return f"{size / GB:,.1f} GB" if size >= GB else f"{size / MB:,.0f} MB"


def _sources(config: Config) -> Iterator[Input]:
    for source in config.sources:
        publication, address = _published(source)
        state = states.source(source)
        yield Input(
            source.name, "source", source.format, publication, address, state, source.path, source.images
        )


def _published(source: Source) -> tuple[Publication | None, str]:
    """Where a source's file is published, told by its name; else that it is the user's own, with the published one named."""
    publication = of_sources.PUBLICATIONS.get(source.format)
    if publication is None:
        return None, f"your own file of the format {source.format}"
    parts = [part for way in publication.ways for part in way.parts if part.goes == "path"]
    if source.path.name in {name for part in parts for name in part.files}:
        return publication, ""
    known = ", ".join(f"{part.files[0]} of {part.address}" for part in parts)
    return None, f"your own file of the format {source.format}; published are {known}"


def _benchmarks(config: Config) -> Iterator[Input]:
    configured = [benchmark for benchmark in config.evaluate.benchmarks if not benchmark.rendered]
    for benchmark in configured:
        yield Input(
            benchmark.name,
            "benchmark",
            benchmark.split,
            of_benchmarks.PUBLICATIONS.get(benchmark.name),
            BENCHMARKS[benchmark.name].published,
            states.benchmark(benchmark),
            benchmark.path,
            benchmark.images,
        )
    for name, entry in BENCHMARKS.items():
        if name not in OWN and name not in {benchmark.name for benchmark in configured}:
            folder = Path("data") / name
            yield Input(
                name,
                "benchmark",
                "",
                of_benchmarks.PUBLICATIONS.get(name),
                entry.published,
                State("not configured", "the paper's table has it; add it to evaluate.benchmarks"),
                folder,
                folder,
            )


def _weights(config: Config) -> Iterator[Input]:
    kinds: tuple[tuple[miniature.Kind, str, Any], ...] = (
        ("policy", "model.weights", config.model),
        ("depth", "depth.weights", config.depth),
    )
    for name, field, section in kinds:
        given, revision = section.weights, section.revision
        item = Input(name, "weights", given, None, "", State("there", ""), revision=revision)
        if given == TINY or miniature.find(given, name):
            yield replace(item, state=State("there", "comes with this project; nothing is fetched"))
        elif re.fullmatch(r"[\w-][\w.-]*/[\w-][\w.-]*", given) and not Path(given).is_dir():
            made = _made(config, f"{name}_weights", given, revision)
            publication = of_weights.of(given)
            yield replace(item, publication=publication, state=states.weights(given, revision, made))
        elif not (folder := Path(given).expanduser()).is_dir():
            yield replace(item, address=OWN_FOLDER, state=State("missing", f"{given}: no such folder"))
        else:
            finding = data_checks.model_folder(field, folder, config.model.family)
            state = State("there" if finding.verdict == "ok" else "broken", finding.found)
            yield replace(item, address=OWN_FOLDER, state=state)


def _made(config: Config, stage: str, given: str, revision: str | None) -> list[str]:
    """The artifacts of a store that hold these weights already."""
    if not config.store.is_dir():
        return []
    found = []
    for manifest in Store(config.store).manifests(stage):
        of = manifest["identity"]["config"]
        if (of.get("weights"), of.get("revision")) == (given, revision):
            found.append(f"{config.store / stage / manifest['key']}")
    return found


def _filled(step: str, known: dict[str, Path | None]) -> str:
    for name, path in known.items():
        step = step.replace(f"{{{name}}}", str(path) if path else f"<{name}>")
    return step

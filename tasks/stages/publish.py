"""publish, subset: SIF-50K as Parquet, its statistics, and the samples for reinforcement learning."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from sifthinker.config import Config
from sifthinker.core.images import ImageLibrary
from sifthinker.core.records import Reject
from sifthinker.data import card, rl_file
from sifthinker.data import publish as domain
from sifthinker.data.features import PUBLISHED
from sifthinker.store.manifest import DATA
from sifthinker.system.cores import Workers
from sifthinker.system.files import write_json
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import RESULTS


@stage(config=lambda c: {"ingest": {"max_pixels": c.ingest.max_pixels}}, results=RESULTS["publish"])
def publish(job: Job) -> None:
    """Joins samples, chains and depth maps, part by part, with the pictures."""
    given = [job.table(name) for name in ("samples", "chains", "maps")]
    library = ImageLibrary(job.folders, job.config.ingest.max_pixels)
    files = job.parts("sif", len(given[0]), DATA)
    parts = [
        domain.Part(samples, chains, maps, file, library)
        for samples, chains, maps, file in zip(*given, files, strict=True)
    ]
    count = min(job.cores, len(parts)) if domain.lasts(parts) else 1
    with Workers(count, patience=0, heard=job.progress.add) as workers:
        job.count(_outcomes(job, workers.map(domain.write_part, parts)), shown=False)
    statistics = domain.statistics(sorted(job.out.glob(card.PARTS)))
    write_json(job.out / "statistics.json", statistics)
    nodes = card.behind(job.store.manifest, (artifact.ref for artifact in job.inputs.values()))
    facts = card.Facts(job.config.model_dump(mode="json"), statistics, nodes)
    (job.out / card.FILE).write_text(card.text(facts), encoding="utf-8")
    job.draft.aside.add(card.FILE)  # other words about the data train no other model


def _outcomes(job: Job, parts: Iterable[domain.Written]) -> Iterator[Reject | int]:
    job.notes["read"] = 0
    for part in parts:
        job.notes["read"] += part.read
        yield from part.rejects
        yield part.kept


def _rl_file(config: Config) -> dict[str, Path]:
    return {"publish.rl_file": config.publish.rl_file} if config.publish.rl_file else {}


def _no_rl_file(config: Config) -> list[str]:
    return [f"{name}: {path} does not exist" for name, path in _rl_file(config).items() if not path.is_file()]


def _subset_identity(config: Config) -> dict[str, object]:
    """How the rows are drawn, or of which sources those of the file are."""
    if config.publish.rl_file:
        return {"sources": sorted(config.taken)}
    return {"rl_samples": config.publish.rl_samples, "seed": config.publish.seed}


@stage(config=_subset_identity, results=RESULTS["subset"], files=_rl_file, lacks=_no_rl_file)
def subset(job: Job) -> None:
    """Draws the reinforcement-learning samples, stratified by data set; or takes those that a file names."""
    parts, settings = job.table("sif"), job.config.publish
    if settings.rl_file:
        named = rl_file.rows(settings.rl_file, sorted(job.config.taken), parts)
        job.keep("rl", PUBLISHED, named, batch=domain.ROW_GROUP)
        return
    ids = domain.subset(parts, settings.rl_samples, settings.seed)
    domain.write_subset(parts, ids, job.out / "rl.parquet")
    job.draft.rows = {"in": len(ids), "kept": len(ids), "rejected": {}}

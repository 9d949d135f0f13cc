"""depth: the depth map of every image."""

from sifthinker.config import identity
from sifthinker.core.images import ImageLibrary
from sifthinker.core.records import sample
from sifthinker.core.tables import MAPS, read
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import RESULTS


@stage(
    config=lambda c: {"depth": identity(c.depth), "ingest": {"max_pixels": c.ingest.max_pixels}},
    results=RESULTS["depth"],
    parts=("samples",),
    in_turn=True,
)
def depth(job: Job) -> None:
    """Runs Depth Anything V2 once on each image of the part."""
    from sifthinker.data import depth_estimation  # imports torch

    samples = map(sample, read(job.table("samples")))
    library = ImageLibrary(job.folders, job.config.ingest.max_pixels)
    pictures = job.counted(library.distinct(samples))
    job.keep(
        "maps",
        MAPS,
        depth_estimation.estimate(pictures, job.inputs["weights"].path, job.config.depth),
        batch=64,
    )

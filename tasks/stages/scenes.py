"""scenes: rendered input, for reproductions without a data set of their own."""

from sifthinker import scenes as domain
from sifthinker.config import identity
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import RESULTS


@stage(config=lambda c: {"scenes": identity(c.scenes)}, results=RESULTS["scenes"])
def scenes(job: Job) -> None:
    """Renders scenes and writes them in the formats of VisCoT, TallyQA and the benchmarks."""
    assert job.config.scenes
    job.notes.update(domain.write(job.out / "data", job.config.scenes))

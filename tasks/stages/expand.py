"""expand: where each chain will look."""

from sifthinker.config import identity
from sifthinker.core.records import sample
from sifthinker.core.tables import FOCUS, read
from sifthinker.data import expansion as domain
from tasks.runtime.stage import Job, stage
from tasks.runtime.stage_results import RESULTS


@stage(config=lambda c: {"expand": identity(c.expand)}, results=RESULTS["expand"], parts=("samples",))
def expand(job: Job) -> None:
    """Reverse expansion from the ground truth to the whole image, for every sample."""
    samples = map(sample, job.counted(read(job.table("samples"))))
    job.keep("focus", FOCUS, domain.expand_samples(samples, job.config.expand))

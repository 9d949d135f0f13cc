"""expand: where each chain will look."""

from sifthinker import expand as domain
from sifthinker.config import identity
from sifthinker.sample import FOCUS, read, sample
from tasks.results import RESULTS
from tasks.stage import Job, stage


@stage(config=lambda c: {"expand": identity(c.expand)}, results=RESULTS["expand"], parts=("samples",))
def expand(job: Job) -> None:
    """Reverse expansion from the ground truth to the whole image, for every sample."""
    samples = map(sample, job.counted(read(job.table("samples"))))
    job.keep("focus", FOCUS, domain.expand(samples, job.config.expand))

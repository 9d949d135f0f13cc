"""retry: the dead letters of annotate, asked again with another model or prompt."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sifthinker import retry as domain
from sifthinker import vlm
from sifthinker.config import Again, Api, identity
from sifthinker.sample import CHAINS, DepthMap, Reject, annotation, focus, read, sample
from tasks.endpoint import endpoint, watched
from tasks.stage import Job, stage


def _api(job: Job, again: Again) -> Api:
    return again.over(job.config.annotate).api


@contextmanager
def _retrying(job: Job) -> Iterator[dict[str, str]]:
    """An engine a pass for all shards, as in annotate; the counts shown are the last pass's."""
    annotate, passes = job.config.annotate, job.config.retry.passes
    domain.check([(again.reasons, again.over(annotate)) for again in passes], annotate)
    context: dict[str, str] = {}
    with ExitStack() as stack:
        for number, again in enumerate(passes):
            api = _api(job, again)
            found = stack.enter_context(endpoint(lambda _, api=api: api)(job))  # type: ignore[misc]
            context |= {f"base_url {number}": found["base_url"], "ledger": found["ledger"]}
            client = stack.enter_context(vlm.Client(api, Path(found["ledger"]), found["base_url"]))
            stack.enter_context(watched(job, client.progress))
        yield context


@stage(
    config=lambda c: {"annotate": identity(c.annotate), "retry": identity(c.retry)},
    code=("sifthinker.retry",),
    parts=("samples", "focus", "maps", "chains"),
    around=_retrying,
)
def retry(job: Job) -> None:
    """Asks again for the rows that were rejected, and passes all others on."""
    assert job.order.part is not None, "the stage works part by part"
    letters = job.inputs["chains"].shards[job.order.part].rejects()
    with ExitStack() as stack:
        passes: list[domain.Pass] = []
        for number, again in enumerate(job.config.retry.passes):
            client = vlm.Client(
                _api(job, again), Path(job.context["ledger"]), job.context[f"base_url {number}"]
            )
            config = again.over(job.config.annotate)
            passes.append((frozenset(again.reasons), stack.enter_context(client), config))
        records = domain.retry(
            lambda: map(sample, read(job.table("samples"))),
            lambda: map(focus, read(job.table("focus"))),
            lambda: (DepthMap(**row) for row in read(job.table("maps"))),
            map(annotation, read(job.table("chains"))),
            (Reject(**row) for row in read(letters)),
            job.folders,
            passes,
        )
        job.keep("chains", CHAINS, records)
    job.notes["read"] = sum(1 for _ in read(job.table("samples"), ["id"]))

"""The endpoint of an API stage: the one that is configured, or the embedded stand-in while the stage runs."""

import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

from sifthinker.config import LOCAL, SERVED, STANDIN, UNNAMED, Api, Config
from sifthinker.core.errors import UserError
from sifthinker.llm import Unreachable, bookkeeping, keys, local_models, standin
from sifthinker.llm.call_counts import Counts, bar
from sifthinker.llm.ledger import VARIABLE
from sifthinker.models import serving
from sifthinker.reporting import bought
from sifthinker.system.repeating import repeated
from tasks.runtime import events, placement, tries
from tasks.runtime.progress import End, Progress, how
from tasks.runtime.stage import Endpoints, Job
from tasks.runtime.stage_log import Log

EVERY = 5.0  # seconds
_PAID_EVERY = 30.0  # seconds between two looks at what a judge was paid
_BEGINS = 0.5  # seconds: how soon it is seen that rows come
SAID = {  # by what the stand-in sees
    "nothing": "answers come from the embedded stand-in server, not from a model",
    "miniature": "answers come from the embedded stand-in server, not from a model; in place of seeing, the miniature was "
    "asked what is at each region",
    "scenes": "answers come from the embedded stand-in server, not from a model; in place of seeing, the truth about the "
    "scenes was looked up",
}
PICTURES = 16  # of a prompt of the annotator: one a step of a chain
_ANSWERED = "answered_by_the_ledger"  # the note
_watched = itertools.count()
JUDGED = ("grpo", "evaluate")  # stages whose endpoint is a judge


def unnamed(field: str, api: Api | None) -> list[str]:
    """For `@stage(lacks=...)`: what to do about an endpoint that nobody named; nothing where there is one."""
    if api is None or api.base_url != UNNAMED:
        return []
    return [
        f"{field}.base_url: no endpoint is named, and there is no default; give its address, or a preset, or 'standin' "
        "for the embedded stand-in, whose replies are made up"
    ]


def unready(config: Config, stage: str, field: str, api: Api | None) -> list[str]:
    """For `@stage(lacks=...)`: what to do about an endpoint that this machine could not ask; nothing where it can.

    It has no address, no key, no vLLM for a local model, or its paid calls would be forgotten with the run. What another
    machine asks, in a pool or on Dask, is seen there.
    """
    if lacking := unnamed(field, api):
        return lacking
    if api is None or api.base_url in (STANDIN, SERVED) or placement.pool(config, stage) or config.dask:
        return []
    if api.base_url == LOCAL:
        return without_vllm(config, stage, field, None) if api.local_server == "vllm" else []
    try:
        keys.key(api, api.base_url)
    except UserError as error:
        return [f"{field}: {error}"]
    if bookkeeping.fleeting():
        return [
            f"{field}: the store of this run is deleted when it ends ({bookkeeping.FLEETING}), with the record of its paid calls: "
            f"the next run would pay again; set {VARIABLE} (infra/README.md, One ledger for several hosts)"
        ]
    return []


def without_vllm(config: Config, stage: str, field: str, python: Path | None) -> list[str]:
    """What to do where a stage wants vLLM, which is not on this machine; nothing where the stage runs on another.

    Args:
        config: of the run.
        stage: its name.
        field: that asks for vLLM, for the message.
        python: the interpreter of vLLM's environment; none: the `vllm` on the PATH.
    """
    if placement.pool(config, stage):
        return []
    try:
        serving.vllm(python)
    except UserError as error:
        return [f"{field}: {error}"]
    return []


def endpoint(api: Callable[[Config], Api]) -> Callable[[Job], AbstractContextManager[Endpoints]]:
    """For `@stage(around=...)`: gives the stage its one endpoint."""

    @contextmanager
    def around(job: Job) -> Iterator[Endpoints]:
        section = api(job.config)
        if section.base_url == STANDIN:
            job.notes["standin"] = SAID[section.standin_sees]
        place = bookkeeping.place(job.store.root)
        with (
            answering(section, job.work, job.order.label, job.log, scene_files(job.config)) as url,
            _judged(job, section, place) if job.order.stage.name in JUDGED else nullcontext(),
        ):
            yield Endpoints(place, (url,), _only_here(section))

    return around


@contextmanager
def _judged(job: Job, judge: Api, place: bookkeeping.Place) -> Iterator[None]:
    """Notes what the judge was paid meanwhile.

    The ledger says so, since others ask than this process: the ranks of a training. What other runs asked of the same
    account meanwhile, with the same ledger, is in it, too.
    """
    before = bookkeeping.usage(place, judge)

    def paid() -> dict[str, Any]:
        used = bookkeeping.usage(place, judge) - before
        found: dict[str, Any] = {"judge_calls": used.calls, "judge_tokens_bought": used.tokens}
        if used.estimated:
            found["judge_tokens_estimated"] = used.estimated
        if used.money:
            found["cost"] = bought.in_words({judge.prices.currency: used.money})
        return found

    try:
        with repeated(lambda: tries.note(job.work, "judge", paid()), lambda: _PAID_EVERY):
            yield
    finally:
        try:
            _note(job, paid())
        except Exception:  # what cannot be noted must not cost a training
            job.log.exception("%s: what its judge was paid is not noted", job.order.label)


def _only_here(api: Api) -> str:
    """Why no other machine can ask an endpoint; "" where one can."""
    if api.base_url in (STANDIN, LOCAL):
        return "its endpoint is a server that this process starts"
    return "its requests go out in batches" if api.mode == "batch" else ""


@contextmanager
def answering(api: Api, work: Path, label: str, log: Log, scenes: Sequence[Path] = ()) -> Iterator[str]:
    """The base URL of an endpoint, which is started where it is one of ours.

    Args:
        api: its section.
        work: folder for the log of what is started.
        label: of the stage, for the log.
        log: takes a warning where no real model answers.
        scenes: files with the truth about rendered scenes, for a stand-in that reads it.

    Raises:
        UserError: none is named; or a local model cannot be served; or a stand-in is to read scenes, and there are none.
    """
    for said in unnamed(label, api):
        raise UserError(said)
    if api.base_url == LOCAL:
        with _local(api, work / "local.log", label, log) as url:
            yield url
        return
    if api.base_url != STANDIN:
        yield api.base_url
        return
    log.warning("%s: %s", label, SAID[api.standin_sees])
    program = (
        "sifthinker.models.seeing_standin" if api.standin_sees == "miniature" else "sifthinker.llm.standin"
    )
    if api.standin_sees != "scenes":
        scenes = ()
    elif not scenes:
        raise UserError(
            f"{label}: the stand-in is to read scenes.json (standin_sees: scenes), and no source is of rendered scenes; "
            "set `scenes`, or standin_sees to nothing"
        )
    with standin.running(work / "standin.log", program=program, scenes=scenes) as url:
        yield url


def scene_files(config: Config) -> list[Path]:
    """The truth about the rendered scenes among a run's sources."""
    files = (source.path.parent / "scenes.json" for source in config.sources)
    return [path for path in dict.fromkeys(files) if path.is_file()]


@contextmanager
def _local(api: Api, file: Path, label: str, log: Log) -> Iterator[str]:
    """A server of a model of this machine, for as long as the stage needs it; `file` takes what the server says.

    Raises:
        UserError: there is no such model; or the server has ended, with the end of its log.
    """
    folder = local_models.folder(api)
    wanted = serving.Wanted(folder, api.local_server, file, api.model, gpus=api.local_gpus, images=PICTURES)
    try:
        with ExitStack() as stack:
            shown = Progress(label, None, log, counted=True)
            what = f"{api.local_server} loads {folder}; its log: {file}"  # that may take minutes
            with repeated(lambda: shown.at(0, what), lambda: EVERY):
                (url,) = stack.enter_context(serving.several([wanted]))
            yield url
    except (Unreachable, serving.ServerFailed) as error:
        raise UserError(f"{error}\nThe server's log: {file}") from error


def weights(api: Api | None) -> dict[str, str]:
    """Of a stage's key: the weights of a local endpoint, which its section names by their folder only."""
    found = local_models.scope(api) if api is not None else ""
    return {"local weights": found} if found else {}


@contextmanager
def watched(
    job: Job, progress: Callable[[], Counts], line: Callable[[Counts], str] = Counts.line
) -> Iterator[None]:
    """Shows rows, calls, tokens, money and the time left while the block runs, and keeps the totals as notes.

    What shards on other machines have asked is in them. A bar in a terminal, unless who shows the run draws one, else lines
    in the log; and a progress artifact. `line` says the counts in words.
    """
    shown = Progress(job.order.label, None, job.log, EVERY, counted=True)
    who = f"endpoint {next(_watched)}"

    def together() -> Counts:
        return job.elsewhere.added(progress())

    def show() -> None:
        nonlocal shown
        counts = together()
        tries.note(job.work, who, _asked(counted(counts)))
        if counts.rows_total:
            if shown.total is None:  # the clock starts with the rows, not with the server
                shown = Progress(job.order.label, None, job.log, EVERY, counted=True)
            shown.total = counts.rows_total  # shards that begin later add theirs
        shown.at(counts.rows_done, line(counts))

    def counted(counts: Counts) -> Counts:
        """Several endpoints: what is elsewhere counts once."""
        return progress() if job.elsewhere.noted else counts

    ended: End = "completed"
    own = sys.stderr.isatty() and not events.heard()
    try:
        with (
            repeated(show, lambda: EVERY if shown.total else min(EVERY, _BEGINS)),
            bar(together, job.order.label, line=line) if own else nullcontext(),
        ):
            yield
    except BaseException as error:
        ended = how(error)
        raise
    finally:
        counts = together()
        shown.done = counts.rows_done
        shown.end(ended, line(counts))
        asked = _asked(counted(counts))
        tries.note(job.work, who, asked)
        _note(job, asked)
        job.elsewhere.noted = True


def _asked(counts: Counts) -> dict[str, Any]:
    """The notes of what an endpoint was asked."""
    asked: dict[str, Any] = {
        "calls": counts.calls,
        _ANSWERED: counts.cached,
        "prompt_tokens_bought": counts.prompt_tokens,
        "completion_tokens_bought": counts.completion_tokens,
    }
    if counts.estimated_tokens:  # of those bought; the server did not report them
        asked["tokens_estimated"] = counts.estimated_tokens
    if counts.money:
        asked["cost"] = bought.in_words({counts.currency: counts.money})
    return asked


def _note(job: Job, more: Mapping[str, Any]) -> None:
    """Adds to the notes of a stage what one of its endpoints was asked."""
    job.notes.update(bought.added([job.notes, more]))
    if _ANSWERED in more:
        job.notes[_ANSWERED] = job.notes.get(_ANSWERED, 0) + more[_ANSWERED]

"""Evaluation: a served model is asked the questions of benchmarks, and its replies are scored officially and strictly.

Reads the benchmarks' files; writes `predictions.parquet` (`scoring.PREDICTIONS`, one row a question),
`rejects.parquet` (questions that could not be asked, with the reason), `scores.json`, `shown.parquet` (a few replies drawn), and a submission file for every
benchmark whose answers are hidden.

`asking` says what the model sees and what a failed request means. No clock enters the files, so an evaluation that was
killed and continued gives the same bytes.
"""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field, replace
from itertools import chain, count
from pathlib import Path
from typing import Any

from sifthinker import config as configuration
from sifthinker import llm
from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.evaluation import scoring, shown
from sifthinker.evaluation.asking import BAD_REQUEST, Asking, judged
from sifthinker.evaluation.benchmarks import BENCHMARKS, SAMPLED, box_frames, presence
from sifthinker.evaluation.benchmarks.question import Missing, Question, Verdict
from sifthinker.evaluation.benchmarks.selection import Selection, open_benchmark
from sifthinker.evaluation.progress import Progress
from sifthinker.evaluation.running_server import Running
from sifthinker.evaluation.shown import Shown
from sifthinker.llm import keys
from sifthinker.llm.bookkeeping import Place

logger = logging.getLogger(__name__)

DepthPictures = Callable[[Iterable[tuple[str, bytes]]], Iterable[tuple[str, bytes]]]


@dataclass(frozen=True, slots=True)
class Served:
    """A model that a server has, and the names it goes by."""

    base_url: str  # of the OpenAI-compatible server
    name: str  # as the server knows it
    label: str  # as reports show it
    digest: str  # of the served weights; replies are remembered under it
    running: Running | None = None  # a server that was not started here
    sizes: bool = True  # whether the server brings pictures under the pixel budget itself
    extra: dict[str, Any] = field(default_factory=dict)  # what each request says besides


@dataclass(frozen=True, slots=True)
class _Opened:
    """The benchmarks that can be asked, and what is known of the others before anything is."""

    jobs: list[Selection] = field(default_factory=list)
    scores: list[dict[str, Any]] = field(default_factory=list)  # entries of `scores.json`
    rejects: list[Reject] = field(default_factory=list)
    submissions: list[str] = field(default_factory=list)  # names of the files for hidden answers
    shown: Shown = field(default_factory=Shown)  # replies for people to look at
    answered: dict[str, list[scoring.Answered]] = field(default_factory=dict)  # by the name of their scores


def evaluate(
    serve: AbstractContextManager[Served],
    model: configuration.Model,
    config: configuration.Evaluate,
    ledger: Place,
    depth: DepthPictures | None,
    out: Path,
    judge: llm.Client | None = None,
    progress: Progress | None = None,
    work: Path | None = None,
) -> dict[str, Any]:
    """Scores of a served model on `config.benchmarks`; what is returned is what `scores.json` holds.

    A benchmark whose files are not there is reported as missing, and the others run.

    Args:
        serve: the model's server. It is started when the depth pictures are there, because both want the GPU.
        model: what training and evaluation agree on.
        config: the benchmarks, and how to ask.
        ledger: where replies are remembered.
        depth: Spectral_r PNGs of (image digest, image) pairs, in any order; None only without `depth_input` and
            without a benchmark that scores depths.
        out: folder for the files.
        judge: scores free answers (VisCoT-s); a benchmark that wants it is left out without it.
        progress: is told how far it is; None: nobody watches.
        work: folder where the depth pictures stay until the evaluation is finished, for one that goes on; None: they do not.

    Raises:
        UserError: a file is not what it should be.
        NotAnswered: the server, or the judge, did not answer a question.
    """
    assert depth is not None or not model.depth_input
    progress = progress or Progress()
    found = _open(config, judge)
    with _depth_folder(work, out) as folder:
        _write_depths(found.jobs, folder, depth, model, progress)
        questions = sum(len(job.chosen) for job in found.jobs) * (1 if config.sampled is None else 2)
        with (
            serve as served,
            _client(served, config, ledger) as client,
            progress.asking(client, questions),
        ):
            asking = Asking(client, folder, model, config, served.extra, not served.sizes)
            predictions = _predictions(found, asking, judge, out, progress)
            tables.write(out / "predictions.parquet", scoring.PREDICTIONS, predictions)
    tables.write(out / shown.FILE, shown.SHOWN, found.shown.rows(found.jobs))
    tables.write(out / "rejects.parquet", tables.REJECTS, found.rejects)
    summary = _summary(served, model, config, found)
    (out / "scores.json").write_text(json.dumps(summary, indent=1) + "\n", encoding="utf-8")
    return summary


def _summary(
    served: Served, model: configuration.Model, config: configuration.Evaluate, found: _Opened
) -> dict[str, Any]:
    """What `scores.json` holds."""
    summary: dict[str, Any] = {
        "model": served.label,
        "limit": config.limit,
        "think": config.think,
        "depth_input": model.depth_input,
        "max_pixels": box_frames.budget(model),
        "box_frame": box_frames.named(config.box_frame, model),
        "temperature": config.temperature,
        "seed": config.seed,
        "max_tokens": config.max_tokens,
        "scores": found.scores,
    }
    if served.running is not None:
        summary["server"] = served.running.as_json()
    return summary


def _client(served: Served, config: configuration.Evaluate, ledger: Place) -> llm.Client:
    """A client of the server. Replies are remembered by the weights' digest, not by the port that it happens to have."""
    api = configuration.Api(
        base_url=configuration.SERVED,
        model=served.name,
        api_key_env=keys.optional("OPENAI_API_KEY", served.base_url),
        concurrency=config.concurrency,
        timeout=config.timeout,
    )
    return llm.Client(api, ledger, served.base_url, scope=served.digest, again=(BAD_REQUEST,))


def _open(config: configuration.Evaluate, judge: llm.Client | None) -> _Opened:
    """Reads every benchmark once.

    Raises:
        UserError: two entries of one benchmark hold a question of the same id.
    """
    found = _Opened()
    for source in config.benchmarks:
        if BENCHMARKS[source.name].judge_requests and judge is None:
            why = "wants a judge: set evaluate.judge"
            found.scores.append(scoring.missing(source.name, why, config.limit, source))
            continue
        try:
            job, bad = open_benchmark(source, BENCHMARKS[source.name], config.limit, config.seed)
        except Missing as error:
            logger.warning("%s", error)
            found.scores.append(scoring.missing(source.name, str(error), config.limit, source))
            continue
        for other in found.jobs:
            if source.name == other.source.name and (shared := job.ids & other.ids):
                raise UserError(presence.clash(other.source, source, min(shared)))
        logger.info("%s: %d questions", source.name, len(job.chosen))
        found.jobs.append(job)
        found.rejects.extend(bad)
    return found


@contextmanager
def _depth_folder(work: Path | None, out: Path) -> Iterator[Path]:
    """A folder for depth pictures; one in `work` is still there after a failure."""
    if work is None:
        with tempfile.TemporaryDirectory(dir=out, prefix=".depth-") as folder:
            yield Path(folder)
        return
    kept = work / "depths"
    kept.mkdir(parents=True, exist_ok=True)
    yield kept
    shutil.rmtree(kept, ignore_errors=True)


def _write_depths(
    jobs: Sequence[Selection],
    folder: Path,
    depth: DepthPictures | None,
    model: configuration.Model,
    progress: Progress,
) -> None:
    """Writes the depth pictures of all images whose depth is shown or scored, named by the image's digest.

    Those that are there already are not made again, and the depth model is not loaded where all are.
    """
    mapped = [job for job in jobs if model.depth_input or job.benchmark.scores_chain]
    wanted = (found for found in _distinct_images(mapped) if not (folder / found[0]).exists())
    if (first := next(wanted, None)) is not None:
        assert depth is not None
        for digest, png in depth(chain([first], wanted)):
            made = folder / f"{digest}.tmp"  # a kill leaves no half of a picture under its name
            made.write_bytes(png)
            made.rename(folder / digest)
            progress.depths += 1


def _distinct_images(jobs: Sequence[Selection]) -> Iterator[tuple[str, bytes]]:
    seen: set[str] = set()
    for job in jobs:
        for item in job.questions():
            if not isinstance(item, Reject) and item[1] not in seen:
                seen.add(item[1])
                yield item[1], job.image(item[0])


def _predictions(
    found: _Opened, asking: Asking, judge: llm.Client | None, out: Path, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Asks every benchmark as configured, then with sampled replies where `config.sampled` wants them.

    Yields:
        The rows of `PREDICTIONS`. Scores and rejects go to `found` on the way.
    """
    sampled = asking.config.sampled
    left = Counter(job.source.name for job in found.jobs)
    for place, job in enumerate(found.jobs):
        for row in _benchmark(found, job, job.source.name, asking, judge, out, progress):
            found.shown.offer(row, place)
            yield row
        if sampled is not None:
            warm = replace(asking, config=asking.config.model_copy(update={"temperature": sampled}))
            yield from _benchmark(found, job, job.source.name + SAMPLED, warm, judge, None, progress)
        left[job.source.name] -= 1
        if not left[job.source.name]:  # all entries of this benchmark are answered
            for name in (job.source.name, job.source.name + SAMPLED):
                if entries := found.answered.get(name):
                    found.scores.extend(scoring.scores(name, entries, asking.config.limit, asking.model))


def _benchmark(
    found: _Opened,
    job: Selection,
    name: str,
    asking: Asking,
    judge: llm.Client | None,
    out: Path | None,
    progress: Progress,
) -> Iterator[dict[str, Any]]:
    """Asks an entry of a benchmark, whose answers count under `name`; a submission of hidden ones goes into the folder `out`."""
    limit = asking.config.limit
    lost: list[Reject] = []
    results: list[tuple[Question, Verdict, Verdict]] = []
    hidden: list[tuple[Question, str]] = []
    for asked, reply, answer in judged(job, asking.answers(job, lost), judge, asking.config.max_absent):
        official = job.benchmark.official(asked.question, answer)
        strict = job.benchmark.strict(asked.question, answer)
        progress.reply(strict.unparsable)
        if asked.question.reference:
            results.append((asked.question, official, strict))
        else:
            # The published evaluation reads any reply. A blank would be wrong where the strict rule is unsure.
            hidden.append((asked.question, strict.reading or " ".join(answer.text.split())))
        yield scoring.prediction(name, asked, reply, answer, official, strict)
    if hidden and out is not None:
        assert job.benchmark.submission, "a benchmark that hides answers has one"
        file, content = job.benchmark.submission(job.source, hidden)
        file = _free(Path(file), found.submissions)
        found.submissions.append(file)
        (out / file).write_bytes(content)
        why = f"the answers to {len(hidden)} questions are hidden: submit {file}"
        found.scores.append(scoring.missing(name, why, limit, job.source))
    if results or not hidden:
        answered = scoring.Answered(job, results, job.bad + len(lost))
        found.answered.setdefault(name, []).append(answered)
    found.rejects.extend(lost)
    progress.lost(len(lost))


def _free(file: Path, taken: Sequence[str]) -> str:
    """The name of a file, with a number where another entry of the benchmark has it: name-2.json."""
    names = (f"{file.stem}-{number}{file.suffix}" for number in count(2))
    return next(name for name in chain([file.name], names) if name not in taken)

"""What there is to do in a run, in rows, steps and tokens, before the data is there.

Where an artifact is in the store its rows count. Otherwise the configuration bounds them (`ingest.total`), and so do the sources'
files where all are here; the lengths are those of a typical row: a picture of 500 x 375 pixels and a chain of 3.2 steps (PAPER.md R3.4).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from itertools import repeat

from sifthinker.annotation.projection import Projection, project
from sifthinker.annotation.retry import over
from sifthinker.config import STANDIN, Config, Model
from sifthinker.core.records import Sample
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.evaluation.benchmarks.question import Answer, Question
from sifthinker.training import preflight
from sifthinker.training.memory import Shape

WIDTH, HEIGHT = 500, 375  # pixels of a typical picture (Visual-CoT's, on average)
PROMPT = 250  # tokens of the prompt's text
CHAIN = 310  # tokens of a typical chain and its answer
LONGEST_CHAIN = 3 * CHAIN
PIECE = 1 << 20  # bytes of a file that are read at once


@dataclass(frozen=True)
class Workload:
    """What the stages will do."""

    drawn: int  # rows of the samples, at most where they are not in the store
    rows: int  # of the data set, at most where `exact` is false
    exact: bool
    prompt: int  # tokens of a typical prompt with its pictures
    longest_prompt: int  # with pictures that use the whole budget
    sft_steps: int
    grpo_steps: int
    judged: int  # completions that GRPO's judge is asked about, at most
    annotation: Projection
    again: (
        tuple[Projection, ...] | None
    )  # of each pass of `retry`, at most; None: it is not known what is rejected
    questions: int | None  # of the benchmarks; None: they are not limited, and nobody has counted them
    asked: int | None  # of the judge of one evaluation, at most; None: as with the questions

    @property
    def chain(self) -> int:
        """Tokens of a typical sample of SFT."""
        return self.prompt + CHAIN


def workload(config: Config, made: Mapping[str, int], shape: Shape | None) -> Workload:
    """What there is to do.

    Args:
        config: of the run.
        made: rows of the artifacts that are in the store, by the stage's label.
        shape: of the policy; None: not known yet.
    """
    drawn = _drawn(config, made)
    rows, exact = _rows(config, made, drawn)
    subset = made.get("subset", min(rows, config.publish.rl_samples))
    grpo = config.grpo
    steps = preflight.steps(grpo, subset)
    completions = grpo.ranks * grpo.batch * grpo.accumulation
    judged = steps * completions // grpo.iterations
    if grpo.evaluate_steps:
        judged += (steps // grpo.evaluate_steps + 2) * grpo.evaluate_rows
    return Workload(
        drawn=drawn,
        rows=rows,
        exact=exact,
        prompt=PROMPT + _pictures(config.model, shape, WIDTH * HEIGHT),
        longest_prompt=PROMPT + _pictures(config.model, shape, None),
        sft_steps=preflight.steps(config.sft, made.get("publish", rows)),
        grpo_steps=steps,
        judged=judged,
        annotation=project(_typical(drawn), None, config.annotate, most=config.publish.rows),
        again=_again(config, made),
        questions=_questions(config, lambda name: 1),
        asked=_questions(config, _judged),
    )


def is_paid(base_url: str) -> bool:
    """Whether calls of an endpoint are worth counting: those of the embedded stand-in cost nothing."""
    return base_url != STANDIN


def _drawn(config: Config, made: Mapping[str, int]) -> int:
    """Rows that ingest gives: with `publish.rows` more than the data set has in the end."""
    if "ingest" in made:
        return made["ingest"]
    held = _in_files(config)
    return config.ingest.total if held is None else max(1, min(config.ingest.total, held))


def _rows(config: Config, made: Mapping[str, int], drawn: int) -> tuple[int, bool]:
    """Rows of the data set, and whether they are known."""
    if "publish" in made:
        return made["publish"], True
    chains = "retry" if config.retry.passes else "annotate"  # a retry adds chains to those of annotate
    return made.get(chains, min(drawn, config.publish.rows or drawn)), False


def _again(config: Config, made: Mapping[str, int]) -> tuple[Projection, ...] | None:
    """What each pass of `retry` takes, as if none before it succeeded, and whatever the rows were rejected for."""
    if not {"ingest", "annotate"} <= made.keys():
        return None
    rejected = made["ingest"] - made["annotate"]
    return tuple(
        project(_typical(rejected), None, over(again, config.annotate)) for again in config.retry.passes
    )


def _in_files(config: Config) -> int | None:
    """Rows of scenes and of the sources' files, at most: each is an object of JSON. None: a file is not here, or no JSON."""
    count = config.scenes.rows if config.scenes else 0
    for source in config.sources:
        try:
            with source.path.open("rb") as file:
                if file.read(PIECE).lstrip()[:1] not in (b"[", b"{"):
                    return None
                file.seek(0)
                count += sum(piece.count(b"{") for piece in iter(lambda: file.read(PIECE), b""))
        except OSError:
            return None
    return count


def _questions(config: Config, each: Callable[[str], int]) -> int | None:
    """The questions of an evaluation, at most, or `each` benchmark's requests a question, by its name.

    The benchmarks' files are not opened to count them.
    """
    settings, rendered = config.evaluate, config.scenes
    count = 0
    for benchmark in settings.benchmarks:
        if _judged(benchmark.name) and settings.judge is None:
            continue  # an evaluation leaves it out
        if requests := each(benchmark.name):
            if settings.limit is None:
                return None
            count += requests * settings.limit
    if rendered:
        rows = min(rendered.benchmark_rows, settings.limit or rendered.benchmark_rows)
        count += rows * sum(map(each, rendered.benchmarks))
    return count * (1 if settings.sampled is None else 2)


def _judged(name: str) -> int:
    """Requests to the judge for each answer of a benchmark: that of the official score and that of the strict one, say."""
    requests = BENCHMARKS[name].judge_requests
    return len(requests(Question("", "", "", "", ""), Answer(""), "")) if requests else 0


def _pictures(model: Model, shape: Shape | None, pixels: int | None) -> int:
    """Tokens of a sample's pictures; `pixels` None: as many as the budget lets through."""
    tower = shape.vision if shape else None
    if tower and tower.square:
        tokens = (tower.square // tower.patch) ** 2
    else:
        side = 2 * tower.patch if tower and tower.patch > 1 else 28  # four patches are merged into one token
        tokens = math.ceil(min(model.max_pixels, pixels or model.max_pixels) / side**2)
    return tokens * (2 if model.depth_input else 1)


def _typical(rows: int) -> Iterable[Sample]:
    question, answer = "What color is the shirt of the man who stands on the left of the car?", "dark blue"
    box = (0.1, 0.2, 0.5, 0.6)
    return repeat(Sample("", "", "", "train", question, answer, "", "", WIDTH, HEIGHT, (box,)), rows)

"""The expected hours, GPU memory, disk and API calls of each stage.

Hours come from a measurement on this machine (`Calibration`). Without one they are not guessed. They leave out what one
process cannot measure: the exchange between ranks, which ZeRO-3 does at every layer, and a paid endpoint's own pace where the
configuration names no limit. Memory is that of `training.memory`. Disk is what is written, by typical sizes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from sifthinker.annotation.projection import Projection
from sifthinker.annotation.retry import over
from sifthinker.config import Api, Config, Grpo, Sft
from sifthinker.training import memory, samplers
from sifthinker.training.memory import Shape
from sifthinker.training.preflight import CHECKPOINTS
from sifthinker.upkeep.forecast.calibration import Calibration
from sifthinker.upkeep.forecast.workload import CHAIN, HEIGHT, LONGEST_CHAIN, WIDTH, Workload, is_paid

MAP = 1.3 * WIDTH * HEIGHT  # bytes of a depth map: a 16-bit PNG
ROW = (
    MAP + 0.5 * WIDTH * HEIGHT + 60_000
)  # bytes of a published row: with its depth picture and its photograph
NOT_MEASURED = "not measured here"
HOUR = 3600.0


@dataclass(frozen=True)
class Line:
    """What one stage will take; None: not known, or nothing to speak of (`note` says which)."""

    stage: str
    hours: float | None = None
    memory_bytes: float | None = None  # of a rank, on its GPU
    disk_bytes: float | None = None
    calls: int | None = None
    note: str = ""


@dataclass(frozen=True)
class _Known:
    """All that a line is made from."""

    config: Config
    work: Workload
    shape: Shape | None
    measured: Calibration | None
    gpus: bool


def forecast(
    stages: Iterable[str],
    config: Config,
    work: Workload,
    shape: Shape | None,
    measured: Calibration | None,
) -> list[Line]:
    """A line for each of the stages that something is known of, in their order."""
    known = _Known(config, work, shape, measured, config.placement == "pools" or bool(memory.free_gpus()))
    return [LINES[stage](stage, known) for stage in stages if stage in LINES]


def _weights(stage: str, of: _Known) -> Line:
    if of.shape is None:
        return Line(stage, note="its size is known when it is here")
    return Line(stage, disk_bytes=2.0 * of.shape.parameters, note="unless it is a folder of yours")


def _depth(stage: str, of: _Known) -> Line:
    each = of.measured.depth_image if of.measured else None
    hours = None if each is None else of.work.drawn * each / HOUR
    note = NOT_MEASURED if each is None else "a map for each row at most"
    return Line(stage, hours, disk_bytes=of.work.drawn * MAP, note=note)


def _annotate(stage: str, of: _Known) -> Line:
    if not of.config.annotates:
        return Line(stage, note="the sources bring their chains: no call")
    return _bought(stage, of.config.annotate.api, of.work.annotation)


def _bought(stage: str, api: Api, found: Projection) -> Line:
    """The calls of one endpoint, and the hours that its limits of a minute make of them."""
    if not is_paid(api.base_url):
        return Line(stage, note="the stand-in answers: no call is paid")
    tokens = found.prompt_tokens + found.completion_tokens
    limits = ((found.calls, api.requests_per_minute), (tokens, api.tokens_per_minute))
    minutes = [] if api.mode == "batch" else [count / limit for count, limit in limits if limit]
    note = f"{found.prompt_tokens / 1e6:,.1f} + {found.completion_tokens / 1e6:,.1f} M tokens"
    if found.money:
        note += f", {found.money:,.2f} {found.currency}"
    if api.mode == "batch":
        note += "; hours: up to 24 a batch"
    elif not minutes:
        note += "; hours: neither requests_per_minute nor tokens_per_minute is set"
    return Line(stage, max(minutes) / 60 if minutes else None, calls=found.calls, note=note)


def _retry(stage: str, of: _Known) -> Line:
    """The passes one after the other, each as if none before it mended a row."""
    if of.work.again is None:
        return Line(stage, note="calls: counted when it is known which rows annotate rejects")
    annotate, passes = of.config.annotate, of.config.retry.passes
    each = [
        _bought(stage, over(again, annotate).api, found)
        for again, found in zip(passes, of.work.again, strict=True)
    ]
    paid = [one for one in each if one.calls is not None]
    if not paid:
        return each[0]
    hours = [one.hours for one in paid if one.hours is not None]
    return Line(
        stage,
        sum(hours) if len(hours) == len(paid) else None,
        calls=sum(one.calls or 0 for one in paid),
        note="at most " + "; then ".join(one.note for one in paid),
    )


def _publish(stage: str, of: _Known) -> Line:
    return Line(stage, disk_bytes=of.work.rows * ROW, note=f"{of.work.rows:,} rows{_at_most(of)}")


def _at_most(of: _Known) -> str:
    return "" if of.work.exact else " at most"


def _sft(stage: str, of: _Known) -> Line:
    settings, work = of.config.sft, of.work
    longest = min(settings.max_length, work.longest_prompt + LONGEST_CHAIN)
    hours = None
    if of.measured and of.shape:
        batch = _trained(settings, of.shape, of.measured, settings.batch * work.chain)
        hours = work.sft_steps * settings.accumulation * batch / HOUR
    return _training(stage, of, settings, longest, hours, f"{work.sft_steps:,} steps{_at_most(of)}")


def _grpo(stage: str, of: _Known) -> Line:
    settings, work = of.config.grpo, of.work
    longest = work.longest_prompt + settings.max_completion
    hours, note = None, f"{work.grpo_steps:,} steps"
    if of.measured and of.shape and samplers.of(settings).scored:
        note += "; hours: what vLLM samples in a second is not measured"
    elif of.measured and of.shape:
        tokens = settings.batch * (work.prompt + min(CHAIN, settings.max_completion))
        passes = 1 + (1 / 3 if settings.beta else 0)  # the reference's log-probabilities
        loss = passes * settings.accumulation * _trained(settings, of.shape, of.measured, tokens)
        completions = settings.batch * settings.accumulation
        sampled = _sampled(of.shape, of.measured, completions, min(CHAIN, settings.max_completion))
        hours = work.grpo_steps * (loss + sampled / settings.iterations) / HOUR
    line = _training(stage, of, settings, longest, hours, note)
    calls = work.judged if is_paid(settings.judge.base_url) else None
    return replace(line, calls=calls)


def _merge(stage: str, of: _Known) -> Line:
    if of.shape is None:
        return Line(stage, note="the size of the model is not known yet")
    width = 2 if of.config.merge.precision == "bf16" else 4
    size = float(width * of.shape.parameters)
    hours = (2 * size / of.measured.read + size / of.measured.write) / HOUR if of.measured else None
    note = "on a GPU with room for it, else in main memory" + (
        "" if of.measured else f"; hours: {NOT_MEASURED}"
    )
    return Line(stage, hours, 4.0 * of.shape.parameters, size, note=note)


def _evaluate(stage: str, of: _Known) -> Line:
    settings, questions = of.config.evaluate, of.work.questions
    paid = settings.judge is not None and is_paid(settings.judge.base_url)
    line = Line(stage, calls=(of.work.asked or None) if paid else None)
    if questions is None:
        return replace(line, note="its questions are not counted; with evaluate.limit they are")
    if settings.server != "transformers":
        return replace(line, note=f"{questions:,} questions; hours of vLLM: {NOT_MEASURED}")
    if not of.measured or not of.shape:
        return replace(line, note=f"{questions:,} questions; hours: {NOT_MEASURED}")
    tokens = min(CHAIN, settings.max_tokens)
    hours = questions * _sampled(of.shape, of.measured, 1, tokens) / HOUR
    return replace(line, hours=hours, note=f"{questions:,} questions at most, one after the other")


LINES: dict[str, Callable[[str, _Known], Line]] = {
    "policy-weights": _weights,
    "depth": _depth,
    "annotate": _annotate,
    "retry": _retry,
    "publish": _publish,
    "sft": _sft,
    "merge-sft": _merge,
    "grpo": _grpo,
    "merge-grpo": _merge,
    "evaluate": _evaluate,
    "evaluate-base": _evaluate,
    "evaluate-sft": _evaluate,
}


def _training(
    stage: str, of: _Known, settings: Sft | Grpo, longest: int, hours: float | None, note: str
) -> Line:
    if of.shape is None:
        return Line(stage, note=f"{note}; the size of the model is not known yet")
    needed = memory.estimate(settings, of.shape, longest, of.config.model)
    width = 2 if settings.precision == "bf16" else 4
    checkpoints = CHECKPOINTS * of.shape.adapted * settings.lora.r * (width + 12)
    copied = (
        of.work.rows * ROW if isinstance(settings, Sft) else 0.0
    )  # the trainer's own copy of the data set
    if hours is None and "not measured" not in note:
        note = f"{note}; hours: {NOT_MEASURED}"
    return Line(
        stage,
        hours,
        sum(needed.values()) + memory.PROCESS["gpu" if of.gpus else "cpu"],
        checkpoints + copied,
        note=f"{note}, {settings.ranks} ranks",
    )


def _trained(settings: Sft | Grpo, shape: Shape, measured: Calibration, tokens: float) -> float:
    """Seconds of a forward and backward pass over so many tokens, and of its vision tower."""
    again = 4 / 3 if settings.gradient_checkpointing else 1.0
    layers = shape.layers * tokens * measured.layer_token * again
    scored = tokens * 3 * measured.head_token * shape.vocabulary / 1000
    a_parameter = measured.layer_token / 3 / max(1, _layer(shape.hidden, shape.inner))
    tower = shape.vision.layers * _layer(shape.vision.hidden, shape.vision.inner)
    seen = 4 * tokens / 2  # patches: four a picture token, of which half the tokens are
    return layers + scored + seen * tower * a_parameter


def _layer(hidden: int, inner: int) -> float:
    """Parameters of a layer, about: four maps of attention and three of the feed-forward part."""
    return 4.0 * hidden * hidden + 3.0 * hidden * inner


def _sampled(shape: Shape, measured: Calibration, sequences: int, tokens: int) -> float:
    """Seconds in which so many completions of so many tokens are decoded side by side."""
    turns = math.ceil(sequences / measured.sequences)
    head = sequences * measured.head_token * shape.vocabulary / 1000
    return tokens * (turns * shape.layers * measured.decode_layer + head)

"""What a run is said to take before anything runs."""

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from flows.commands import plan as command
from flows.commands.tables import Printed
from sifthinker.config import Config, load
from sifthinker.core.errors import UserError
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.models import miniature
from sifthinker.training import memory
from sifthinker.upkeep import forecast
from sifthinker.upkeep.forecast import calibration
from tasks.runtime.planned import Planned

CONFIGS = Path(__file__).resolve().parents[2] / "flows" / "configs"
SEVEN = memory.PUBLISHED["Qwen/Qwen2.5-VL-7B-Instruct"]
STAGES = [
    "policy-weights",
    "ingest",
    "depth",
    "annotate",
    "retry",
    "publish",
    "sft",
    "merge-sft",
    "grpo",
    "evaluate",
]
ALSO = ["evaluate-base", "evaluate-sft"]
MEASURED = forecast.Calibration(
    host="here",
    date="2026-11-29T10:00:00+00:00",
    device="a GPU",
    precision="bf16",
    hidden=SEVEN.hidden,
    inner=SEVEN.inner,
    cached=SEVEN.cached,
    r=8,
    layer_token=2e-6,
    head_token=1e-8,
    decode_layer=1e-3,
    sequences=2,
    depth_image=0.036,
    write=1e9,
    read=2e9,
    versions={},
)


@pytest.fixture
def paper() -> Config:
    return load(CONFIGS / "paper.yaml")


def paper_with(fields: dict) -> Config:
    return load(CONFIGS / "paper.yaml", fields)


def lines(config: Config, measured=MEASURED, made=None, shape=SEVEN) -> dict[str, forecast.Line]:
    work = forecast.workload(config, made or {}, shape)
    return {line.stage: line for line in forecast.forecast([*STAGES, *ALSO], config, work, shape, measured)}


def test_the_papers_run_is_counted_before_there_is_any_data(paper):
    """The figures of the README: steps, calls, tokens, memory, disk."""
    work = forecast.workload(paper, {}, SEVEN)
    assert (work.rows, work.exact) == (50_000, False)
    assert (work.sft_steps, work.grpo_steps, work.judged) == (1173, 2000, 32_000)
    found = lines(paper)
    assert found["annotate"].calls == pytest.approx(115_000, rel=0.01)
    assert found["annotate"].hours == pytest.approx(115_000 / 600 / 60, rel=0.01)
    assert found["grpo"].calls == 32_000
    assert 20e9 < found["grpo"].memory_bytes < 30e9, "the whole model is gathered to sample"
    assert found["policy-weights"].disk_bytes == pytest.approx(16.6e9, rel=0.01)
    assert found["merge-sft"].memory_bytes == pytest.approx(33e9, rel=0.01)
    assert "ingest" not in found


def test_the_tokens_and_the_money_of_many_rows_are_their_sum():
    """One call's counts above 100 million are discarded, and 100,000 rows have more together."""

    def of(rows):
        prices = {"prompt": 2.0, "completion": 8.0, "currency": "CNY"}
        return paper_with({"annotate.api.prices": prices, "ingest.total": rows})

    thousand, many = (forecast.workload(of(rows), {}, SEVEN).annotation for rows in (1000, 100_000))
    assert many.prompt_tokens == pytest.approx(100 * thousand.prompt_tokens, rel=1e-5)
    assert many.completion_tokens == pytest.approx(100 * thousand.completion_tokens, rel=1e-5)
    assert many.money == pytest.approx((2 * many.prompt_tokens + 8 * many.completion_tokens) / 1e6)
    note = lines(of(100_000))["annotate"].note
    assert note == "192.5 + 34.5 M tokens, 661.30 CNY"


def test_hours_are_what_was_measured_times_what_there_is_to_do(paper):
    found = lines(paper)
    assert found["depth"].hours == pytest.approx(50_000 * 0.036 / 3600)
    sft = paper.sft.model_copy(update={"gradient_checkpointing": False})
    plain = lines(paper.model_copy(update={"sft": sft}), replace(MEASURED, head_token=0.0))
    work = forecast.workload(paper, {}, SEVEN)
    tokens = 2 * work.chain  # of a batch; its layers, and the vision tower's by their size
    layers = 28 * tokens * 2e-6
    assert plain["sft"].hours == pytest.approx(1173 * 8 * layers / 3600, rel=0.15)
    assert found["sft"].hours > plain["sft"].hours, "gradient checkpointing and the head cost something"
    slow = lines(paper, replace(MEASURED, decode_layer=1e-2))
    # 2,000 steps, a typical chain of 310 tokens, 28 layers, 9 ms more
    assert slow["grpo"].hours - found["grpo"].hours == pytest.approx(2000 * 310 * 28 * 9e-3 / 3600)


def test_without_a_measurement_no_hours_are_guessed_and_calls_are_counted_all_the_same(paper):
    found = lines(paper, measured=None)
    assert {stage for stage, line in found.items() if line.hours is not None} == {"annotate"}
    for stage in ("depth", "sft", "merge-sft", "grpo"):
        assert "not measured here" in found[stage].note


@pytest.mark.parametrize(
    ("changed", "note"),
    [
        (
            {"requests_per_minute": None},
            "hours: neither requests_per_minute nor tokens_per_minute is set",
        ),
        ({"mode": "batch"}, "hours: up to 24 a batch"),  # the limit of a minute is none of a batch
    ],
)
def test_no_hours_of_an_annotation_are_guessed_that_no_limit_of_a_minute_holds(paper, changed, note):
    annotate = paper.annotate.model_copy(update={"api": paper.annotate.api.model_copy(update=changed)})
    found = lines(paper.model_copy(update={"annotate": annotate}))["annotate"]
    assert found.hours is None
    assert note in found.note


@pytest.mark.parametrize(
    ("requests", "tokens", "hours"),
    [
        (600, None, 115_000 / 600 / 60),
        (None, 100_000, 113.5e6 / 100_000 / 60),
        (600, 100_000, 113.5e6 / 100_000 / 60),  # the slower of the two
        (600, 10**9, 115_000 / 600 / 60),
    ],
)
def test_the_hours_of_an_annotation_are_those_of_the_limit_that_holds(requests, tokens, hours):
    limits = {"annotate.api.requests_per_minute": requests, "annotate.api.tokens_per_minute": tokens}
    found = lines(paper_with(limits))["annotate"]
    assert found.hours == pytest.approx(hours, rel=0.01)
    assert "hours" not in found.note


def test_so_many_chains_are_counted_and_not_the_rows_of_their_draw():
    """Half as many again are drawn: each has its depth map, and only the wanted chains are bought and trained on."""
    config = paper_with({"publish.rows": 50_000})
    work = forecast.workload(config, {}, SEVEN)
    assert (work.drawn, work.rows, work.exact, work.sft_steps) == (75_000, 50_000, False, 1173)
    assert work.annotation.calls == pytest.approx(115_000, rel=0.01)
    found = lines(config)
    assert found["publish"].note == "50,000 rows at most"
    assert found["depth"].hours == pytest.approx(75_000 * 0.036 / 3600)
    there = forecast.workload(config, {"ingest": 70_000, "annotate": 49_000}, SEVEN)
    assert (there.drawn, there.rows) == (70_000, 49_000)
    assert there.annotation.calls == pytest.approx(115_000, rel=0.01)
    few = forecast.workload(config, {"ingest": 40_000}, SEVEN)
    assert (few.rows, few.annotation.rows) == (40_000, 40_000)


def test_the_judge_is_counted_for_the_benchmarks_that_ask_it():
    """Of the paper's, VisCoT-s: twice an answer, by Visual-CoT's rule and by the paper's."""
    config = paper_with({"evaluate.limit": 100})
    judged = [one for one in config.evaluate.benchmarks if BENCHMARKS[one.name].judge_requests]
    assert [one.name for one in judged] == ["viscot"] and len(config.evaluate.benchmarks) > 1
    found = lines(config)
    assert found["evaluate"].calls == found["evaluate-base"].calls == found["evaluate-sft"].calls == 200
    assert found["evaluate"].note.startswith(f"{100 * len(config.evaluate.benchmarks):,} questions")
    twice = lines(paper_with({"evaluate.limit": 100, "evaluate.sampled": 1.0}))
    assert twice["evaluate"].calls == 400
    without = lines(paper_with({"evaluate.limit": 100, "evaluate.judge": None}))["evaluate"]
    assert without.calls is None, "that benchmark is left out"
    assert without.note.startswith(f"{100 * (len(config.evaluate.benchmarks) - 1):,} questions")
    assert lines(paper_with({}))["evaluate"].calls is None, "nobody has counted its questions"


def test_the_passes_of_a_retry_are_counted_over_what_annotate_rejected():
    api = {"base_url": "https://api.example.org/v1", "model": "larger", "requests_per_minute": 60}
    config = paper_with({"retry.passes": [{"seed": 1}, {"api": {**api, "prices": {"prompt": 2.0}}}]})
    assert lines(config)["retry"].calls is None
    assert "counted when it is known which rows annotate rejects" in lines(config)["retry"].note
    made = {"ingest": 50_000, "annotate": 49_000}
    found = lines(config, made=made)["retry"]
    assert found.calls == pytest.approx(2 * 1000 * 2 * 1.15, rel=0.01)
    assert found.hours == pytest.approx(1000 * 2 * 1.15 * (1 / 600 + 1 / 60) / 60, rel=0.01)
    assert found.note == "at most 1.9 + 0.3 M tokens; then 1.9 + 0.3 M tokens, 3.85 USD"
    standin = paper_with({"retry.passes": [{"api": {"base_url": "standin", "model": "m"}}, {"seed": 1}]})
    assert lines(standin, made=made)["retry"].note == "at most 1.9 + 0.3 M tokens"
    assert lines(standin, made=made)["retry"].calls == pytest.approx(1000 * 2 * 1.15, rel=0.01)
    assert forecast.workload(config, made, SEVEN).rows == 50_000, "a retry may mend all of them"
    assert forecast.workload(config, {**made, "retry": 49_500}, SEVEN).rows == 49_500


def test_every_stage_of_a_run_that_takes_long_has_a_line(tmp_path):
    """Those without one take moments, or hold what others made."""
    config = load(CONFIGS / "demo.yaml", {"store": str(tmp_path), "retry.passes": [{"seed": 1}]})
    stages = [one.label for one in command.planned(config, None, None, [], None)]
    work = forecast.workload(config, {}, SEVEN)
    found = {line.stage for line in forecast.forecast(stages, config, work, SEVEN, MEASURED)}
    assert {"retry", *ALSO} < set(stages)
    small = {"scenes", "depth-weights", "ingest", "expand", "subset", "report"}
    assert set(stages) - found == small


def test_what_is_in_the_store_counts_instead_of_the_bounds(paper):
    made = {"ingest": 1300, "publish": 1280, "subset": 100}
    work = forecast.workload(paper, made, SEVEN)
    assert (work.rows, work.exact, work.sft_steps, work.grpo_steps) == (1280, True, 30, 1000)
    assert lines(paper, made=made)["annotate"].calls == pytest.approx(1300 * 2 * 1.15, rel=0.01)


def test_the_files_of_the_sources_bound_the_rows_where_all_are_here(tmp_path, paper):
    """Of own rows nobody is told that 50,000 of them take 20 GB."""
    lines_file, array = tmp_path / "mine.jsonl", tmp_path / "mine.json"
    lines_file.write_text('{"question": "a"}\n' * 20)
    array.write_text("\n " + json.dumps([{"question": "a"}] * 12))

    def of(*paths: Path, **more):
        sources = [{"name": path.stem, "format": "viscot", "path": str(path)} for path in paths]
        for number, source in enumerate(sources):
            source["name"] += str(number)
        return Config.model_validate({"sources": sources, **more})

    assert forecast.workload(of(lines_file, array), {}, SEVEN).rows == 32
    assert forecast.workload(of(lines_file, scenes={"rows": 5}), {}, SEVEN).rows == 25
    assert forecast.workload(of(lines_file, ingest={"total": 7}), {}, SEVEN).rows == 7
    assert forecast.workload(of(lines_file, tmp_path / "not.json"), {}, SEVEN).rows == 50_000
    (tmp_path / "table.csv").write_text("question,answer\n{,}\n")
    assert forecast.workload(of(tmp_path / "table.csv"), {}, SEVEN).rows == 50_000
    assert forecast.workload(of(lines_file), {"publish": 3}, SEVEN).rows == 3
    assert lines(of(lines_file))["publish"].note == "20 rows at most"
    assert lines(of(lines_file), made={"publish": 3})["publish"].note == "3 rows"


def test_variants_and_evaluations_of_grpo_are_counted(paper):
    grpo = paper.grpo.model_copy(update={"iterations": 2, "evaluate_steps": 100, "evaluate_rows": 64})
    work = forecast.workload(paper.model_copy(update={"grpo": grpo}), {}, SEVEN)
    assert work.grpo_steps == 4000
    assert work.judged == 32_000 + (40 + 2) * 64


def test_a_model_that_is_not_here_and_not_known_is_said_to_be_unknown(paper):
    found = lines(paper, shape=None)
    assert found["sft"].memory_bytes is None and "not known yet" in found["sft"].note
    assert found["annotate"].calls and found["annotate"].hours


def test_a_measurement_counts_for_its_machine_its_precision_and_its_sizes(tmp_path):
    file = calibration.save(MEASURED, tmp_path)
    assert file.name == "here-2026-11-29T100000.json"
    later = replace(MEASURED, date="2026-11-30T10:00:00+00:00", layer_token=1.0)
    calibration.save(later, tmp_path)
    (tmp_path / "here-of-another-version.json").write_text('{"host": "here"}')
    (tmp_path / "here-broken.json").write_text("{")
    assert calibration.latest(SEVEN, "bf16", "here", "a GPU", tmp_path) == later
    for other in (
        (SEVEN, "fp32", "here", "a GPU"),
        (SEVEN, "bf16", "there", "a GPU"),
        (SEVEN, "bf16", "here", "another GPU"),
        (replace(SEVEN, hidden=1024), "bf16", "here", "a GPU"),
        (None, "bf16", "here", "a GPU"),
    ):
        assert calibration.latest(*other, tmp_path) is None
    assert calibration.folder().name == "calibration"


def planned(**verdicts: str) -> list[Planned]:
    return [Planned(label.replace("_", "-"), verdict) for label, verdict in verdicts.items()]


def test_the_command_shows_the_stages_that_run_and_says_how_to_measure(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(calibration.platformdirs, "user_cache_path", lambda _: tmp_path / "cache")
    config = load(CONFIGS / "demo.yaml", {"store": str(tmp_path / "store")})
    plan = planned(policy_weights="cached", publish="runs", sft="runs", evaluate="runs")
    found, measured = command.expected(config, plan, calibrate=False)
    assert [line.stage for line in found] == ["publish", "sft", "evaluate"] and measured is None
    command._show(Printed(False, "stages"), found, measured)
    printed = capsys.readouterr().out
    assert "hours: not measured here (`sif plan --calibrate`)" in printed
    assert "together" in printed and "192 questions" in printed


def test_calibrating_without_the_models_sizes_says_how_to_get_them(tmp_path, monkeypatch):
    monkeypatch.setattr(calibration.platformdirs, "user_cache_path", lambda _: tmp_path / "cache")
    config = load(CONFIGS / "demo.yaml", {"store": str(tmp_path), "model.weights": "some/model"})
    with pytest.raises(UserError, match=r"the sizes of some/model are known when it is here"):
        command.expected(config, planned(sft="runs"), calibrate=True)


@pytest.mark.e2e
def test_this_machine_is_measured_and_the_hours_are_of_the_right_order(tmp_path, monkeypatch):
    """With the miniature's layers: more than nothing, and far from a day for the demo's 150 steps."""
    from sifthinker.upkeep.forecast import measure

    monkeypatch.setattr(measure, "DISK", 8_000_000)
    monkeypatch.setattr(calibration.platformdirs, "user_cache_path", lambda _: tmp_path / "cache")
    config = load(CONFIGS / "demo.yaml", {"store": str(tmp_path / "store")})
    found, measured = command.expected(config, planned(depth="runs", sft="runs", grpo="runs"), calibrate=True)
    assert measured is not None and measured.host in measured.name
    shape = memory.read_shape(miniature.folder("policy"))
    assert (measured.hidden, measured.sequences) == (
        shape.hidden,
        config.grpo.batch * config.grpo.accumulation,
    )
    assert all(line.hours and 1e-4 < line.hours < 10 for line in found)
    [file] = (tmp_path / "cache" / "calibration").iterdir()
    assert json.loads(file.read_text())["device"] == measured.device


# --- what is too slow to be measured --------------------------------------------------------------------------------

LAYER = memory.Shape(
    parameters=1, adapted=1, layers=4, hidden=256, inner=512, vocabulary=1000, cached=128, context=2048
)


def test_layers_that_would_take_too_long_are_extrapolated_from_products(monkeypatch):
    """A product of 13 rows at 1 ns a weight, and none of a layer: a training step is two, a token one."""
    from sifthinker.upkeep.forecast import measure

    monkeypatch.setattr(measure, "_product", lambda rows, *_: rows * 1e-9)
    monkeypatch.setattr(measure, "_layers", lambda *_: pytest.fail("no layer is built"))
    monkeypatch.setattr(measure, "LIMIT", 1.0)
    rates = measure._rates(SEVEN, 8, torch.float32, "cpu", 2)
    weights = SEVEN.hidden * (4 * SEVEN.hidden + 3 * SEVEN.inner)
    assert rates.layer_token == pytest.approx(2e-9 * weights)
    assert rates.decode_layer == pytest.approx(2e-9 * weights)
    assert rates.extrapolated.startswith("layers are extrapolated from products of 13 and 2 rows: one would")


@pytest.mark.parametrize(("first", "layers"), [(10.0, [1, 3]), (20.0, [1])])
def test_three_layers_are_measured_only_where_one_leaves_the_time_for_them(monkeypatch, first, layers):
    """One took 10 s, or 20 s, and three would take three times as long, of 60 s in all."""
    from sifthinker.upkeep.forecast import measure

    now, built = [0.0], []

    def decoder(count, *_):
        built.append(count)
        now[0] += first * count
        return 2.0 * count, 0.5 * count

    monkeypatch.setattr(measure.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(measure, "_product", lambda *_: 0.0)
    monkeypatch.setattr(measure, "_layers", decoder)
    rates = measure._rates(SEVEN, 8, torch.float32, "cpu", 2)
    assert built == layers
    assert (rates.layer_token, rates.decode_layer) == (pytest.approx(2.0 / 13), pytest.approx(0.5))
    assert rates.extrapolated == (
        "" if len(layers) == 2 else "layers are extrapolated from 1: 3 would take 60 s here"
    )


@pytest.mark.e2e
def test_products_tell_what_layers_take(monkeypatch):
    """To a factor of ten: this decides what is measured, and stands in for what is not."""
    from sifthinker.upkeep.forecast import measure

    monkeypatch.setattr(measure.time, "perf_counter", time.process_time)  # whatever else the machine does
    measured = measure._rates(LAYER, 8, torch.float32, "cpu", 2)
    monkeypatch.setattr(measure, "LIMIT", 0.0)
    guessed = measure._rates(LAYER, 8, torch.float32, "cpu", 2)
    assert not measured.extrapolated and guessed.extrapolated
    assert 0.1 < guessed.layer_token / measured.layer_token < 10


def test_slow_depth_maps_are_extrapolated_from_one_picture(monkeypatch, paper):
    from sifthinker.upkeep.forecast import measure

    now = [0.0]

    def estimate(pictures, *_):
        found = list(pictures)
        now[0] += 5.0 + 3.0 * len(found)  # loading, and 3 s a picture
        return found

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(measure.depth_estimation, "estimate", estimate)
    each, said = measure._depth(paper, Path("weights"))
    assert each == pytest.approx(3.0)
    assert said.startswith("depth maps are extrapolated from one picture")
    monkeypatch.setattr(measure, "LIMIT", 1e6)
    assert measure._depth(paper, Path("weights")) == (pytest.approx(3.0), "")


def test_the_plan_says_what_was_not_measured(monkeypatch, capsys):
    measured = replace(MEASURED, extrapolated="layers are extrapolated from products of 13 and 2 rows")
    command._show(Printed(False, "stages"), [forecast.Line("sft", 1.0)], measured)
    assert "Not measured: layers are extrapolated from products of 13 and 2 rows" in capsys.readouterr().out

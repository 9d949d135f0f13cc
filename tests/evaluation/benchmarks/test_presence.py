"""What is missing of the configured benchmarks is named before anything runs."""

from pathlib import Path

import pytest

from sifthinker import config
from sifthinker.core.errors import UserError
from sifthinker.evaluation.benchmarks import BENCHMARKS, presence
from tasks.runtime.planned import Planned, refuse
from tasks.stages import evaluate
from tests.evaluation.benchmarks.published_files import written


def settings(*benchmarks, **more):
    return config.Evaluate(benchmarks=benchmarks, server="transformers", **more)


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_whose_files_are_there_is_there(name, tmp_path):
    source = written(tmp_path, name, "")
    judged = {"judge": config.Api(base_url="standin", model="judge")}
    assert presence.absent(settings(source, **judged)) == {}
    nothing = source.model_copy(update={"path": tmp_path / "no", "images": tmp_path / "no"})
    [(found, why)] = presence.absent(settings(nothing, **judged)).items()
    assert found == name and "wants " in why and ("published at" in why or name == "sif"), why


def test_a_picture_that_is_not_there_no_questions_and_no_judge_are_named(tmp_path):
    source = written(tmp_path / "a", "vstar", "")
    (tmp_path / "a" / "0.png").unlink()
    assert "0.png: No such file or directory" in presence.absent(settings(source))["vstar"]
    empty = written(tmp_path / "b", "vstar", "")
    (tmp_path / "b" / "test_questions.jsonl").write_text('{"text": 3}\n')
    assert "holds no row that is a question" in presence.absent(settings(empty))["vstar"]
    judged = written(tmp_path / "c", "viscot", "")
    assert presence.absent(settings(judged)) == {"viscot": "wants a judge: set evaluate.judge"}


def test_rendered_scenes_are_there(tmp_path):
    source = config.Benchmark(name="vstar", path=tmp_path / "no", images=tmp_path / "no", rendered=True)
    assert presence.absent(settings(source)) == {}


def test_a_run_is_refused_before_its_first_stage_or_goes_on_without_what_is_named(tmp_path):
    there = written(tmp_path / "a", "vstar", "")
    gone = config.Benchmark(name="pope", path=tmp_path / "no", images=tmp_path / "no")

    def of(**more):
        return config.Config.model_validate({"scenes": {}, "evaluate": settings(there, gone, **more)})

    [lacking] = evaluate.evaluate.lacks(of())
    assert lacking.startswith("pope: wants coco_pope_random.json")
    assert evaluate.evaluate.lacks(of(missing="leave_out")) == []
    assert (
        evaluate.evaluate.expects(of(missing="leave_out"), {}) == "5 benchmarks; left out: pope"
    )  # 4 of scenes
    with pytest.raises(UserError, match=r"nothing ran.*\n  evaluate: pope: wants coco_pope_random\.json"):
        refuse([Planned("sft", "runs"), Planned("evaluate", "runs", lacks=(lacking,))])
    refuse([Planned("sft", "runs"), Planned("evaluate", "runs")])


def test_the_papers_configuration_evaluates_what_its_tables_1_to_4_have(monkeypatch):
    from flows.commands.options import load
    from sifthinker.reporting import paper_tables

    made = load("paper", [])
    names = [benchmark.name for benchmark in made.evaluate.benchmarks]
    assert {row.benchmark for row in paper_tables.ROWS} == set(names)
    assert [b.split for b in made.evaluate.benchmarks if b.name == "mmbench"] == ["test", "dev"]
    assert made.evaluate.judge == made.grpo.judge and made.evaluate.judge.model == "doubao-1.5-vision-pro"
    monkeypatch.chdir(Path("/"))
    monkeypatch.delenv(made.evaluate.judge.api_key_env, raising=False)
    key, vllm, *absent = evaluate.evaluate.lacks(made)
    assert "no API key" in key and "vllm" in vllm.lower()
    assert len(absent) == len(names)  # none of them is here, and each is named


def test_two_entries_of_the_same_questions_are_refused_before_anything_runs(tmp_path):
    one, copy = written(tmp_path / "a", "vstar", ""), written(tmp_path / "b", "vstar", "")
    [clash] = evaluate.evaluate.lacks(
        config.Config.model_validate({"scenes": {}, "evaluate": settings(one, copy)})
    )
    assert f"hold a question direct_attributes/0: {one.path} and {copy.path}" in clash
    with pytest.raises(ValueError, match=f"vstar of {one.path} stands there twice; leave one out"):
        settings(one, one.model_copy(update={"labels": "each"}))
    # Other splits, choices and benchmarks have other questions.
    chinese = written(tmp_path / "d", "mmbench", "")
    (chinese.path.parent / "cn").mkdir()
    chinese = chinese.model_copy(update={"path": chinese.path.rename(chinese.path.parent / "cn" / "x.tsv")})
    choices = written(tmp_path / "e", "sat", "")
    entries = (
        one,
        written(tmp_path / "c", "mmbench", ""),
        chinese,
        choices,
        choices.model_copy(update={"choices": "official"}),
    )
    assert presence.clashes(settings(*entries)) == []


def test_a_plan_counts_the_benchmarks_of_scenes_that_are_still_to_be_made() -> None:
    wanted = config.Config.model_validate({"scenes": {"benchmarks": ["sif", "vstar"]}})
    assert evaluate.evaluate.expects(wanted, {}) == "2 benchmarks"
    made = [config.Benchmark(name="sif", path=Path("x"), images=Path("x"), rendered=True)]
    section = wanted.evaluate.model_copy(update={"benchmarks": tuple(made)})
    assert evaluate.evaluate.expects(wanted.model_copy(update={"evaluate": section}), {}) == "1 benchmark"

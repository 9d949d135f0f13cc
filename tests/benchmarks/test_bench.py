"""Both ways of every pair compute the same, at the smallest size; nothing is timed here."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("shapely", reason="the `bench` extra is not installed")

from tests.benchmarks import bench, ingest

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    "pair",
    [pytest.param(pair, marks=[pytest.mark.slow] if pair.installs else []) for pair in bench.PAIRS],
    ids=lambda pair: pair.name,
)
@pytest.mark.timeout(1800)
def test_both_ways_compute_the_same(pair, tmp_path):
    if pair in ingest.PAIRS and not ingest.VISCOT.is_dir():
        pytest.skip("../shared/data is not here")
    pair.prepare(tmp_path, pair.smallest)
    ways = pair.ours(tmp_path, pair.smallest), pair.other(tmp_path, pair.smallest)
    pair.same(*(way() for way in ways))


def test_results_that_differ_are_noticed(tmp_path):
    pair = next(pair for pair in bench.PAIRS if pair.name.startswith("HIoU"))
    pair.prepare(tmp_path, pair.smallest)
    right = pair.other(tmp_path, pair.smallest)()
    with pytest.raises(AssertionError, match="differ"):
        pair.same([value + 1e-6 for value in right], right)


def test_the_command_times_in_turns_and_writes_table_and_json(tmp_path):
    command = [sys.executable, "-m", "tests.benchmarks.bench", "--quick", "--only", "HIoU of 1x1"]
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "bench.json")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    assert "HIoU of 1x1 boxes" in done.stdout
    result = json.loads((tmp_path / "bench.json").read_text())
    (row,) = result["pairs"]
    assert row["ratio"] > 0 and row["least"] <= row["ratio"] <= row["greatest"]
    assert row["ours MiB"]["peak"] > row["ours MiB"]["work"] >= 0
    assert {"commit", "python", "packages", "cores"} <= set(result["machine"])


@pytest.mark.e2e
def test_one_part_is_measured_alone_and_an_unknown_name_lists_all(tmp_path):
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.bench",
        "--quick",
        "--out",
        str(tmp_path / "bench.json"),
    ]
    subprocess.run([*command, "--only", "annotation"], cwd=ROOT, check=True, capture_output=True)
    result = json.loads((tmp_path / "bench.json").read_text())
    assert set(result) == {"machine", "pairs", "annotation", "annotation rate"} and not result["pairs"]
    assert [row["way"] for row in result["annotation"]] == 2 * ["authors", "ours"]
    done = subprocess.run([*command, "--only", "nothing"], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2
    assert "HIoU of 1x1 boxes" in done.stderr and "a step of GRPO" in done.stderr


@pytest.mark.slow
def test_the_whole_command_runs_at_its_smallest_size(tmp_path):
    if not ingest.VISCOT.is_dir():
        pytest.skip("../shared/data is not here")
    command = [
        sys.executable,
        "-m",
        "tests.benchmarks.bench",
        "--quick",
        "--out",
        str(tmp_path / "bench.json"),
    ]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    result = json.loads((tmp_path / "bench.json").read_text())
    assert len(result["pairs"]) == len([pair for pair in bench.PAIRS if not pair.installs])
    assert {row["stage"] for row in result["full size"]} == {"ingest", "expand", "publish"}
    assert [row["way"] for row in result["annotation"]] == 2 * ["authors", "ours"]
    assert result["annotation rate"][0]["share of the ideal rate"] > 0
    assert len(result["grpo step"]["ours"]) == len(result["grpo step"]["trl"]) == 2


def test_a_way_that_fails_ends_the_benchmark(tmp_path):
    with bench.Way(0, "ours", tmp_path, 1) as way, pytest.raises(RuntimeError, match="a way failed"):
        way.call()  # nothing was prepared in the folder

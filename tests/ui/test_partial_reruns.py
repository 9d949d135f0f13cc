"""Partial reruns through the real UI in a real browser; what ran and what was cached is read from the server."""

from __future__ import annotations

import shutil

import psutil
import pytest

from flows.labels import LABELS as ALL
from tests.ui.conftest import Site, wait_for

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
# No passes over the dead letters, and no model before the last one is evaluated: no such stages.
LABELS = [label for label in ALL if label not in ("retry", "evaluate-base", "evaluate-sft")]
SCREEN = 900  # pixels of the window's height


@pytest.mark.parametrize("deployment", ["reproduce", "nightly", "ablation", "prune", "compare"])
def test_a_form_is_seen_without_scrolling_more_than_one_screen(site: Site, deployment: str) -> None:
    site.form(deployment)
    site.page.wait_for_timeout(1000)
    height = site.page.evaluate("document.querySelector('.app-router-view').scrollHeight")
    site.whole(f"form-{deployment}")
    assert height <= 2 * SCREEN, f"{height} pixels"


def test_another_learning_rate_from_the_form_runs_grpo_and_what_follows(site: Site) -> None:
    site.form("reproduce")
    site.write("set", "grpo.learning_rate=3e-5")
    site.choose("start_at", "grpo")
    site.look("form")
    run = site.submit()
    assert site.ended(run)["type"] == "COMPLETED"
    stages = site.stages(run)
    after = LABELS.index("grpo")
    assert {stages[label] for label in LABELS[:after]} == {"Cached"}
    assert {stages[label] for label in LABELS[after:]} == {"Completed"}
    seen = site.look("run", f"runs/flow-run/{run}")
    assert "Completed" in seen
    assert site.name(run) == "smoke grpo.learning_rate=3e-5 from grpo" and site.name(run) in seen


def test_yaml_that_is_pasted_runs_and_a_typed_name_stays(site: Site) -> None:
    site.form("reproduce")
    site.page.locator(".flow-run-name-input input").fill("two scenes")
    site.write("config", f"extends: demo\nname: pasted\nstore: {site.store}\nscenes: {{rows: 2}}\n")
    site.choose("stop_after", "scenes")
    site.look("form-pasted")
    run = site.submit()
    assert site.ended(run)["type"] == "COMPLETED"
    assert site.name(run) == "two scenes"
    assert "name: pasted" in site.artifact(run, "configuration")["data"]


def test_a_mistake_is_told_before_the_run_is_made_or_as_its_end(site: Site) -> None:
    site.form("reproduce")
    site.write("set", "grpo.learning_rate")  # no value: the server refuses it
    button = site.page.get_by_role("button", name="Submit", exact=True)
    with site.page.expect_response(lambda answer: answer.url.endswith("/create_flow_run")) as answer:
        site.press(button)
    assert answer.value.status == 409
    site.page.get_by_text("Validation failed for field 'set'").first.wait_for()
    site.look("refused")
    site.write("set", "grpo.learning_rate=fast")
    run = site.submit()
    state = site.ended(run)
    assert state["type"] == "FAILED"
    assert "grpo.learning_rate: must be a number, found 'fast'" in state["message"]
    site.look("mistake", f"runs/flow-run/{run}")
    site.page.get_by_text("must be a number, found 'fast'").first.wait_for()  # its log comes after the page
    assert not site.stages(run)
    logs = site.ask("POST", "logs/filter", logs={"flow_run_id": {"any_": [run]}})
    assert not [line for line in logs if "Traceback" in line["message"]]


def test_stop_after_and_refresh_from_the_form(site: Site) -> None:
    site.form("reproduce")
    site.choose("stop_after", "expand")
    site.choose("refresh", "ingest")
    run = site.submit()
    assert site.ended(run)["type"] == "COMPLETED"
    assert list(site.stages(run)) == ["scenes", "ingest", "expand"]  # what `expand` is made from
    assert site.ran(run) == {"ingest"}  # made again, with the same digest: what follows stays


def test_an_earlier_runs_data_is_reused_from_the_form(site: Site) -> None:
    """With another seed of the scenes every stage would run; those before start_at are the earlier run's."""
    site.form("reproduce")
    site.write("set", "scenes.seed=9")
    site.choose("start_at", "subset")
    site.choose("stop_after", "subset")
    site.write("reuse_run", "whole")
    run = site.submit()
    assert site.ended(run)["type"] == "COMPLETED"
    assert set(site.stages(run)) == {"subset"}


def test_retry_of_a_failed_run_takes_the_finished_stages_from_the_cache(site: Site) -> None:
    """The folder of a stage's artifacts is in the way of a file: a cause that is taken away before the retry.

    The worker's configuration changes meanwhile: the retry takes what the first attempt took.
    """
    site.form("reproduce")
    site.write("set", "ingest.total=11")
    site.choose("stop_after", "expand")
    kept = site.store / "expand.kept"
    (site.store / "expand").rename(kept)
    (site.store / "expand").write_text("in the way")
    file = site.configs / "demo.yaml"
    before = file.read_text()
    try:
        run = site.submit()
        assert site.ended(run)["type"] == "FAILED"
    finally:
        (site.store / "expand").unlink()
        shutil.move(kept, site.store / "expand")
    assert site.stages(run)["ingest"] == "Completed"
    site.look("failed", f"runs/flow-run/{run}")
    try:
        file.write_text(
            before.replace("name: smoke", "name: changed\nsources: [{name: x, format: viscot, path: x}]")
        )
        site.page.get_by_role("button", name="Retry").first.click()
        site.page.get_by_role("button", name="Retry").last.click()
        wait_for(lambda: site.ask("GET", f"flow_runs/{run}")["state"]["type"] == "COMPLETED", 900)
    finally:
        file.write_text(before)
    assert site.stages(run)["ingest"] == "Cached"
    assert site.stages(run)["expand"] == "Completed"
    assert site.name(run) == "smoke ingest.total=11 until expand"


def test_cancel_in_the_ui_ends_the_training_too(site: Site) -> None:
    site.form("reproduce")
    site.write("set", "sft.learning_rate=0.0002\nsft.max_steps=500")
    site.choose("stop_after", "sft")
    run = site.submit()
    child = wait_for(lambda: training(site), 900)
    site.look("cancel", f"runs/flow-run/{run}")
    site.page.get_by_role("button", name="Cancel").first.click()
    site.page.get_by_role("button", name="Confirm").click()
    assert site.ended(run)["type"] == "CANCELLED"
    wait_for(lambda: not psutil.pid_exists(child), 120)


def training(site: Site) -> int | None:
    """The process id of a training on this site's store."""
    for process in psutil.process_iter(["pid", "cmdline"]):
        words = process.info["cmdline"] or []
        if "sifthinker.training.sft" in words and str(site.store) in words[-1]:
            return int(process.info["pid"])
    return None

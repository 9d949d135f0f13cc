"""From a run's page to what it made: links that open, and an outcome that is read at a glance."""

from __future__ import annotations

import pytest

from tests.ui.conftest import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def test_the_report_opens_from_the_runs_outcome(site: Site) -> None:
    run = site.run("whole")
    seen = site.look("outcome", f"artifacts/artifact/{site.artifact(run, 'outcome')['id']}")
    assert "✔ made" in seen and "Completed" in seen and "Took" in seen
    site.follow("Open the report")
    assert "What the final model was made from" in site.look("report")
    pictures = site.page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert pictures and all(pictures)


def test_the_pages_of_a_store_are_listed_and_nothing_else_is_there(site: Site) -> None:
    answer = site.page.goto(site.pages)
    assert answer and answer.status == 200
    site.page.get_by_role("link", name="whole").first.click()
    site.page.get_by_text("What the final model was made from").first.wait_for()
    for path in ("calls.sqlite", "runs/", "report/x/../../calls.sqlite"):
        answer = site.page.goto(f"{site.pages}/{path}")
        assert answer and answer.status == 404


def test_a_run_shows_its_whole_configuration_and_its_report_in_short(site: Site) -> None:
    run = site.run("whole")
    assert "learning_rate" in site.look(
        "configuration", f"artifacts/artifact/{site.artifact(run, 'configuration')['id']}"
    )
    short = site.look("report-page", f"artifacts/artifact/{site.artifact(run, 'report-page')['id']}")
    assert "Open the whole report" in short and "Question." in short
    trained = site.artifact(run, "grpo-training")
    assert trained["description"].startswith("grpo: completed after 1 step and ")

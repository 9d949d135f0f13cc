"""A night, started by hand from the UI: what people look at in the morning."""

from __future__ import annotations

import re

import pytest

from tests.ui.conftest import Site

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(1800)]


def test_a_night_started_from_the_ui_ends_with_a_report_whose_pictures_show(site: Site) -> None:
    site.form("nightly")
    site.look("night-form")
    run = site.submit()
    state = site.ended(run)
    assert state["type"] == "COMPLETED", state["message"]
    site.look("night", f"runs/flow-run/{run}")
    name = site.name(run)
    assert re.fullmatch(r"nightly \d{4}-\d\d-\d\d", name), name
    site.look("night-artifact", f"artifacts/artifact/{site.artifact(run, 'night')['id']}")
    site.follow("Open the report")
    site.page.screenshot(path=site.pictures / "night-report.png", full_page=True)
    pictures = site.page.evaluate("[...document.images].map(i => i.complete && i.naturalWidth > 0)")
    assert pictures and all(pictures)

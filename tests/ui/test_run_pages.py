"""The page of a run that ended well and of one that failed: what it says at a glance, and that each of its links opens."""

from __future__ import annotations

import re
from urllib.parse import urljoin, urlsplit

import httpx
import pytest

from tests.ui.conftest import Site

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]
LINK = re.compile(r"\]\((https?://[^)\s]+)\)")


def artifacts(site: Site, run: str) -> list[dict[str, object]]:
    found = site.ask("POST", "artifacts/filter", artifacts={"flow_run_id": {"any_": [run]}}, limit=200)
    return list(found)


def test_every_link_of_a_runs_artifacts_opens_and_so_does_every_link_of_the_pages_behind(site: Site) -> None:
    run = site.run("whole")
    links = {link for one in artifacts(site, run) for link in LINK.findall(str(one["data"]))}
    assert any(link.startswith(site.pages) for link in links), links
    seen: set[str] = set()
    todo = [*links, f"{site.pages}/"]
    while todo:
        address = todo.pop().partition("#")[0]
        if address in seen:
            continue
        seen.add(address)
        answer = httpx.get(address, timeout=120, follow_redirects=True)
        assert answer.status_code == 200, address
        if address.startswith(site.pages) and "html" in answer.headers["content-type"]:
            hrefs = re.findall(r'(?:href|src)="([^"#][^"]*)"', answer.text)
            whole = [urljoin(str(answer.url), href) for href in hrefs if not href.startswith("data:")]
            todo += [link for link in whole if urlsplit(link).netloc == urlsplit(site.pages).netloc]
    print(len(seen), "pages")


def test_the_artifacts_of_a_run_that_ended_say_that_nothing_more_comes(site: Site) -> None:
    run = site.run("whole")
    site.look("run-whole", f"runs/flow-run/{run}")
    site.page.get_by_text("Artifacts", exact=True).first.click()
    site.page.wait_for_timeout(2000)
    site.whole("run-whole-artifacts")
    for one in artifacts(site, run):
        said = str(one["description"])
        if one["type"] == "progress" or str(one["key"]).endswith("-training"):
            assert re.search(r": completed after ", said), said


def test_a_failed_run_says_where_it_failed_and_what_to_do(site: Site) -> None:
    site.form("reproduce")
    site.write(
        "set", "sft.seed=7\nsft.python=/nowhere/bin/python"
    )  # the interpreter alone makes nothing anew
    site.choose("start_at", "sft")
    run = site.submit()
    state = site.ended(run)
    assert state["name"] == "UserError"
    assert "sft.python: /nowhere/bin/python is no interpreter on this machine" in state["message"]
    assert "is no interpreter" in site.look("run-failed", f"runs/flow-run/{run}")
    outcome = site.artifact(run, "outcome")
    seen = site.look("outcome-failed", f"artifacts/artifact/{outcome['id']}")
    assert "✘ failed" in seen and "is no interpreter" in seen and "↺ cached" in seen
    assert site.name(run).startswith("smoke sft.seed=7") and site.name(run).endswith(" from sft")

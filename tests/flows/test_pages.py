"""The server of a store's pages: it serves those, nothing else, and to nobody by another name; and the links to it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from starlette.testclient import TestClient
from typer.testing import CliRunner

from flows import pages
from flows.commands import main
from flows.commands import pages as pages_command
from sifthinker.core.errors import UserError
from sifthinker.store import runs, s3
from sifthinker.store.artifacts import Store
from sifthinker.system.files import write_json
from sifthinker.system.processes import end, here
from tasks.runtime import links

NIGHT = "0f0e0d0c-0000-4000-8000-000000000000"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    made = Store(tmp_path / "store")
    for file in (
        "report/abc123/report.html",
        f"nights/{NIGHT}/report.html",
        f"nights/{NIGHT}-weekly/report.html",
        "previews/p1/preview.html",
        "report/abc123/manifest.json",
        "publish/abc123/report.html",
        "report/abc123.work/report.html",
    ):
        (made.root / file).parent.mkdir(parents=True, exist_ok=True)
        (made.root / file).write_text(f"<p>{file}</p>")
    (made.root / "calls.sqlite").write_text("paid")
    (tmp_path / "secret.html").write_text("secret")
    ref = {"stage": "report", "key": "abc123", "digest": "d"}
    record = {"id": "run-1", "name": "demo <b>", "started": 1.0, "config": {}, "stages": {"report": ref}}
    made.record(runs.file(made, "run-1"), record)
    made.record(
        runs.file(made, NIGHT),
        {"id": NIGHT, "name": "nightly 2026-11-29", "started": 2.0, "config": {}, "stages": {}},
    )
    return made


@pytest.fixture
def client(store: Store) -> TestClient:
    return TestClient(pages.app(store.root), base_url="http://127.0.0.1")


def test_the_pages_are_listed_by_the_names_of_their_runs_and_open(client: TestClient) -> None:
    listed = client.get("/")
    assert listed.status_code == 200
    for path in (
        "report/abc123/report.html",
        f"nights/{NIGHT}/report.html",
        f"nights/{NIGHT}-weekly/report.html",
        "previews/p1/preview.html",
    ):
        assert f'href="/{path}"' in listed.text
        opened = client.get(f"/{path}")
        assert opened.status_code == 200 and path in opened.text
        assert opened.headers["content-type"].startswith("text/html")
    assert "demo &lt;b&gt;" in listed.text and listed.text.count("nightly 2026-11-29") == 2
    assert "/publish/" not in listed.text and ".work" not in listed.text
    assert client.head("/report/abc123/report.html").status_code == 200


@pytest.mark.parametrize(
    "path",
    [
        "calls.sqlite",
        "report",
        "report/",
        "report/abc123",
        "report/abc123/",
        "report/abc123/manifest.json",
        "report/abc123.work/report.html",
        "report/none/report.html",
        "publish/abc123/report.html",
        "runs/run-1.json",
        "report/../calls.sqlite",
        "report/%2e%2e/report.html",
        "report/..%2f..%2fsecret/report.html",
        "report/abc123%2f..%2f..%2fcalls.sqlite/report.html",
        "..%2fsecret.html",
        "report/abc123/report.html/",
        "report//report.html",
        "report/abc123%00/report.html",
        "/etc/passwd",
    ],
)
def test_nothing_else_of_the_store_is_served(client: TestClient, path: str) -> None:
    answer = client.get(f"/{path}", follow_redirects=False)
    assert answer.status_code == 404, answer.text
    assert "paid" not in answer.text and "secret" not in answer.text


def test_links_out_of_the_store_are_not_followed(client: TestClient, store: Store, tmp_path: Path) -> None:
    folder = store.root / "report" / "linked"
    folder.mkdir()
    (folder / "report.html").symlink_to(tmp_path / "secret.html")
    (store.root / "report" / "folder").symlink_to(store.root / "report" / "abc123")
    for key in ("linked", "folder"):
        assert client.get(f"/report/{key}/report.html").status_code == 404
        assert f"report/{key}/" not in client.get("/").text


def test_pages_have_no_script_no_network_and_stand_in_no_frame(client: TestClient) -> None:
    for path in ("/", "/report/abc123/report.html", "/nothing"):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert (
            "default-src 'none'" in policy and "frame-ancestors 'none'" in policy and "script" not in policy
        )
        assert headers["x-content-type-options"] == "nosniff"


def test_nothing_is_changed_and_no_other_name_stands_for_the_server(client: TestClient) -> None:
    for method in ("POST", "PUT", "DELETE", "PATCH"):
        assert client.request(method, "/report/abc123/report.html").status_code == 405
    assert client.get("/", headers={"host": "evil.example.org"}).status_code == 400  # DNS rebinding
    assert client.get("/", headers={"host": "localhost:4201"}).status_code == 200


def test_a_link_is_the_outside_address_or_that_of_a_server_that_runs(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = store.root / "report" / "abc123" / "report.html"
    monkeypatch.delenv(links.URL, raising=False)
    assert links.url(store.root, page) is None
    assert "`sif pages` serves it" in links.shown(store.root, page, "Open the report")
    with links.known(store.root, "http://127.0.0.1:4201"):
        assert links.url(store.root, page) == "http://127.0.0.1:4201/report/abc123/report.html"
        assert "**[Open the report](http://127.0.0.1:4201/report" in links.shown(
            store.root, page, "Open the report"
        )
        monkeypatch.setenv(links.URL, "https://pages.example.org/sif/")
        assert links.url(store.root, page) == "https://pages.example.org/sif/report/abc123/report.html"
        monkeypatch.delenv(links.URL)
        assert links.url(store.root, store.root.parent / "elsewhere.html") is None
    assert links.url(store.root, page) is None
    gone = {"url": "http://127.0.0.1:1", "process": {**here(os.getpid()), "started": 1.0}}
    write_json(store.root / "prefect" / "pages.json", gone)
    assert links.url(store.root, page) is None, "a server that was killed is none"


def away(*_: object) -> None:
    raise UserError("no credentials")


def served(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> Store:
    """The store that the command would serve."""
    stores: list[Store] = []
    monkeypatch.setattr(pages, "serve", lambda store, *_: stores.append(store))
    done = CliRunner().invoke(main.app, ["pages", *arguments], catch_exceptions=False)
    assert done.exit_code == 0
    return stores[0]


def test_the_pages_of_a_folder_need_no_remote(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """In compose they are served without credentials, from a store that cannot be written."""
    write_json(store.root / "remote.json", {"url": "s3://bucket/prefix"})
    monkeypatch.setattr(s3.Remote, "list", away)
    assert served(monkeypatch, "--store", str(store.root)).root == store.root


def test_the_pages_of_a_configuration_are_fetched_as_far_as_the_remote_can_be_read(
    bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    pod = Store(tmp_path / "pod", bucket)
    with pod.sharing(page := pod.root / "nights" / NIGHT / "report.html"):
        page.parent.mkdir(parents=True)
        page.write_text("a night of a pod")
    folder, file = tmp_path / "here", tmp_path / "mine.yaml"
    file.write_text(f"name: mine\nscenes: {{}}\nstore: {folder}\nremote: {bucket}\n")
    with monkeypatch.context() as patch:
        patch.setattr(s3.Remote, "list", away)
        assert served(patch, "--config", str(file)).root == folder
    assert "no credentials" in caplog.text
    served(monkeypatch, "--config", str(file))
    opened = TestClient(pages.app(folder), base_url="http://127.0.0.1").get(f"/nights/{NIGHT}/report.html")
    assert opened.text == "a night of a pod"


def test_a_port_that_is_taken_is_named(store: Store) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=f"pages: 127.0.0.1:{port}: Address already in use; give another --port"
        ):
            pages.serve(store, "127.0.0.1", port, lambda _: None)


def test_a_host_that_has_no_address_is_named(store: Store) -> None:
    with pytest.raises(
        UserError, match=r"pages: host\.invalid: .*(known|resol|address).*; give another --host"
    ):
        pages.serve(store, "host.invalid", 0, lambda _: None)


@pytest.mark.e2e
def test_the_command_serves_until_it_is_told_to_end(store: Store) -> None:
    command = [sys.executable, "-m", "flows", "pages", "--store", str(store.root), "--port", "0"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not (address := links.server(store.root)):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        assert httpx.get(f"{address}/healthz", timeout=60).text == "ok"
        assert "demo &lt;b&gt;" in httpx.get(address, timeout=60).text
        process.terminate()
        assert process.wait(60) in (0, -15)
        assert links.server(store.root) is None
    finally:
        end(process.pid)


@pytest.mark.e2e
def test_a_run_whose_pages_find_the_port_taken_serves_them_at_another(
    store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path))
    monkeypatch.delenv(links.URL, raising=False)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setattr(pages_command, "PORT", port)
        address = pages_command.ensure(store.root)
        said = json.loads((store.root / "prefect" / "pages.json").read_text())
        try:
            assert address == links.server(store.root) != f"http://127.0.0.1:{port}"
            assert httpx.get(f"{address}/healthz", timeout=60).text == "ok"
        finally:
            end(said["process"]["pid"])
    assert pages_command._port() == port  # free again

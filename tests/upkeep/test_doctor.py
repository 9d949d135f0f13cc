"""`sif doctor`: each check finds what is in order, and says what to do where it is not; test_doctor_machine.py has the machine's."""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from flows.commands.main import app
from sifthinker.config import Config, parse
from sifthinker.core.errors import UserError
from sifthinker.llm import standin
from sifthinker.llm.ledger_sqlite import SqliteLedger
from sifthinker.models import loading
from sifthinker.upkeep import data_checks, endpoint_checks, findings, ledger_checks
from sifthinker.upkeep.findings import Finding

TINY = {"scenes": {}, "model": {"weights": "tiny"}, "depth": {"weights": "tiny"}}


def config(tmp_path: Path, **fields: Any) -> Config:
    return parse({"store": str(tmp_path / "store"), **TINY, **fields}, "test")


def verdicts(findings: list[Finding]) -> dict[str, str]:
    return {finding.check: finding.verdict for finding in findings}


def only(findings: Iterator[Finding] | list[Finding]) -> Finding:
    (finding,) = findings
    assert finding.todo or finding.verdict == "ok", "what is wrong comes with what to do"
    return finding


def test_a_check_that_breaks_hides_none_of_the_others() -> None:
    def breaks() -> Iterator[Finding]:
        yield Finding("half", "ok", "seen before it broke")
        raise ZeroDivisionError("by nought")

    def mistaken() -> Iterator[Finding]:
        raise UserError("give another folder")
        yield

    found = findings.examine(
        {"broken": breaks, "mistaken": mistaken, "fine": lambda: [Finding("fine", "ok", "")]}
    )
    assert verdicts(found) == {"half": "ok", "broken": "error", "mistaken": "error", "fine": "ok"}
    assert "ZeroDivisionError: by nought" in found[1].found
    assert found[2].found == "give another folder"


def test_a_store_that_can_be_written_keeps_nothing_of_the_probe(tmp_path: Path) -> None:
    assert only(data_checks.store(config(tmp_path))).verdict == "ok"
    assert not list((tmp_path / "store").iterdir())


def test_a_store_in_the_place_of_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "store").write_text("")
    found = findings.examine({"store": lambda: data_checks.store(config(tmp_path))})
    assert found[0].verdict == "error" and "cannot be created" in found[0].found


def test_a_remote_that_is_not_there_is_an_error_and_one_that_is_left_out_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert only(data_checks.remote(config(tmp_path))).verdict == "ok"
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "who")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-to-be-shown")
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between boto's tries
    with_remote = config(tmp_path, remote="s3://bucket/prefix")
    found = findings.examine({"remote": lambda: data_checks.remote(with_remote)})
    assert found[0].verdict == "error" and "AWS_ENDPOINT_URL_S3" in found[0].found
    assert "not-to-be-shown" not in found[0].found


def test_the_ledger_is_read_but_not_made(tmp_path: Path) -> None:
    path = tmp_path / "calls.sqlite"
    assert "none yet" in only(ledger_checks.file(path)).found
    assert not path.exists()
    SqliteLedger(path).close()
    assert "0 calls paid" in only(ledger_checks.file(path)).found
    path.write_bytes(b"no ledger " * 100)
    assert only(ledger_checks.file(path)).verdict == "error"
    path.unlink()
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE other (x)")
    assert only(ledger_checks.file(path)).verdict == "error"


def test_the_money_of_several_accounts_is_not_added_up() -> None:
    """They may be in different currencies."""
    one = [("https://a.example model", 10, 1.5), ("https://b.example model", 2, 0.0)]
    assert ledger_checks.paid(one) == "12 calls paid, 1.50 in money"
    several = ledger_checks.paid([*one, ("https://c.example model", 1000, 7.25)])
    assert several == (
        "1,012 calls paid, in money by account: 1.50 (https://a.example model), 7.25 (https://c.example model)"
    )


@pytest.mark.parametrize("kind", ["nfs", "nfs4", "cifs", "ceph", "fuse.sshfs", "lustre"])
def test_a_ledger_on_a_network_file_system_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    mounts = [
        SimpleNamespace(mountpoint="/", fstype="ext4"),
        SimpleNamespace(mountpoint=str(tmp_path), fstype=kind),
    ]
    monkeypatch.setattr("psutil.disk_partitions", lambda all: mounts)
    found = only(ledger_checks.file(tmp_path / "store" / "calls.sqlite"))
    assert found.verdict == "warning" and kind in found.found


def test_files_of_the_configuration_are_looked_at_one_by_one(tmp_path: Path) -> None:
    row = {
        "question": "What?",
        "answer": "x",
        "image": "1.jpg",
        "width": 9,
        "height": 9,
        "bboxs": [[1, 1, 5, 5]],
    }
    (tmp_path / "good.json").write_text(json.dumps([row | {"dataset": "d", "split": "train"}]))
    (tmp_path / "empty.json").write_text("")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "1.jpg").write_bytes(b"x")

    def source(name: str, path: str, images: str | None = "images") -> dict[str, Any]:
        where = None if images is None else str(tmp_path / images)
        return {"name": name, "format": "viscot", "path": str(tmp_path / path), "images": where}

    sources = [
        source("good", "good.json"),
        source("bare", "good.json", None),
        source("empty", "empty.json"),
        source("gone", "gone.json", "nowhere"),
    ]
    benchmark = {"name": "vstar", "path": str(tmp_path / "good.json"), "images": str(tmp_path / "nowhere")}
    looked_at = config(tmp_path, scenes=None, sources=sources, evaluate={"benchmarks": [benchmark]})
    found = [*data_checks.data(looked_at), *data_checks.benchmarks(looked_at)]
    assert list(verdicts(found).values()) == ["ok", "ok", "error", "error", "error"]
    assert "gone.json does not exist" in found[3].found
    assert all(finding.todo for finding in found[2:])


def test_weights_are_a_model_in_safetensors_or_come_from_the_hub(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def look(weights: str) -> str:
        return next(iter(data_checks.weights(config(tmp_path, model={"weights": weights})))).verdict

    assert look("tiny") == "ok"
    assert look(str(tmp_path / "nowhere")) == "error"
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert look("Qwen/Qwen2.5-VL-7B-Instruct") == "warning"
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert look("Qwen/Qwen2.5-VL-7B-Instruct") == "ok"


@pytest.mark.parametrize(
    ("missing", "family", "found", "todo"),
    [
        ("", "gemma3", "", ""),
        ("", "llava", "model_type is 'gemma3', expected 'llava'", "set model.family: gemma3"),
        ("model.safetensors", "gemma3", "model.safetensors is missing", ""),
        ("config.json", "gemma3", "its config cannot be read", ""),
        ("chat_template.jinja", "gemma3", "holds no chat template", "copy its chat template here"),
        ("processor_config.json", "gemma3", "processor", "copy the base model's processor"),
    ],
)
def test_a_folder_of_weights_that_a_run_would_refuse_is_found_before_it(
    tmp_path: Path, missing: str, family: str, found: str, todo: str
) -> None:
    loading.build_tiny("gemma3", 0, tmp_path / "model")
    if missing:
        (tmp_path / "model" / missing).unlink()
    fields = {"weights": str(tmp_path / "model"), "family": family}
    finding = next(iter(data_checks.weights(config(tmp_path, model=fields))))
    assert finding.verdict == ("error" if found else "ok")
    assert found in finding.found and todo in finding.todo and bool(finding.todo) is bool(found)


def test_a_folder_that_is_no_depth_model_is_found(tmp_path: Path) -> None:
    loading.build_tiny_depth(0, tmp_path / "depth")

    def look(folder: str) -> str:
        return list(data_checks.weights(config(tmp_path, depth={"weights": str(tmp_path / folder)})))[
            1
        ].verdict

    assert look("depth") == "ok"
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text("{}")
    assert look("other") == "error"


def apis(tmp_path: Path, url: str, **more: Any) -> Config:
    """The same endpoint for the annotator and the judge of the rewards."""
    api = {"base_url": url, "model": "m", "api_key_env": "DOCTOR_KEY", "timeout": 20, **more}
    return config(tmp_path, annotate={"api": api}, grpo={"judge": api})


def test_an_endpoint_without_its_key_is_an_error_before_any_call(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOCTOR_KEY", raising=False)
    asked = apis(tmp_path, "https://api.example.org/v1")
    found = list(endpoint_checks.endpoints(asked, calls=True))
    assert verdicts(found) == {"endpoint annotate, grpo.judge": "error"}
    assert "DOCTOR_KEY" in found[0].found
    monkeypatch.setenv("DOCTOR_KEY", "not-to-be-shown")
    monkeypatch.setenv("SIF_API_KEYS", "DOCTOR_KEY=api.example.org")
    found = list(endpoint_checks.endpoints(asked, calls=False))
    assert found[0].verdict == "ok" and "not called" in found[0].found
    assert "not-to-be-shown" not in str(found)


@pytest.mark.parametrize("mode", ["chat", "batch", "batch_chat"])
def test_an_endpoint_is_asked_once_whoever_uses_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setenv("DOCTOR_KEY", "right")
    with standin.running(tmp_path / "log", key="right") as url:
        for _ in range(2):  # a second look asks again: its answer is not the first one's
            found = list(endpoint_checks.endpoints(apis(tmp_path, url, mode=mode), calls=True))
            assert found[0].verdict == "ok" and "answered in" in found[0].found
        assert standin.counts(url)["answered"] == 2
        monkeypatch.setenv("DOCTOR_KEY", "wrong-and-secret")
        found = list(endpoint_checks.endpoints(apis(tmp_path, url, mode=mode), calls=True))
    assert found[0].verdict == "error" and "check the key" in found[0].found
    assert "wrong-and-secret" not in str(found)
    assert not (tmp_path / "store" / "calls.sqlite").exists()


class Quiet(BaseHTTPRequestHandler):
    """A Prefect server that is healthy, and has forgotten who we are."""

    def do_GET(self) -> None:
        healthy = self.path.endswith("/health")
        body = b"true" if healthy else b'{"exception_message": "Unauthorized"}'
        self.send_response(200 if healthy else 401)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Variables that the command gives a default to, so that none outlives the test."""
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    for name in ("PREFECT_LOGGING_EXTRA_LOGGERS", "PREFECT_CLIENT_MAX_RETRIES", "DOCTOR_KEY"):
        monkeypatch.setenv(name, "0" if name.endswith("RETRIES") else "")
    return monkeypatch


def test_the_command_shows_every_check_and_fails_for_an_error_alone(
    tmp_path: Path, environment: pytest.MonkeyPatch
) -> None:
    options = ["doctor", "--config", "smoke", "--set", f"store={tmp_path / 'store'}"]
    good = CliRunner().invoke(app, [*options, "--json"])
    assert good.exit_code == 0, good.output
    found = {finding["check"]: finding for finding in json.loads(good.output)}
    assert {"python", "packages", "GPU", "store", "ledger", "scenes", "endpoint annotate", "server"} <= set(
        found
    )
    assert found["server"]["verdict"] == "warning" and "sif run" in found["server"]["todo"]
    bad = CliRunner().invoke(
        app,
        [
            *options,
            "--set",
            "annotate.api.base_url=https://api.example.org/v1",
            "--set",
            "annotate.api.api_key_env=DOCTOR_KEY",
        ],
    )
    assert bad.exit_code == 1
    assert "DOCTOR_KEY" in bad.output and "what to do" in bad.output and "Traceback" not in bad.output


def test_a_server_that_refuses_the_credentials_is_an_error_that_says_so(tmp_path: Path) -> None:
    from prefect.settings import PREFECT_API_URL, temporary_settings

    from flows.server import answers
    from tasks.operations.doctor import server

    quiet = ThreadingHTTPServer(("127.0.0.1", 0), Quiet)
    threading.Thread(target=quiet.serve_forever, daemon=True).start()
    api = f"http://127.0.0.1:{quiet.server_port}/api"
    try:
        with temporary_settings({PREFECT_API_URL: api}):
            found = findings.examine(server(config(tmp_path), api, answers, {}))
    finally:
        quiet.shutdown()
        quiet.server_close()
    by_check = {finding.check: finding for finding in found}
    assert by_check["server"].verdict == "error" and "PREFECT_API_AUTH_STRING" in by_check["server"].todo
    assert list(by_check) == [
        "Prefect",
        "Prefect's database",
        "server",
        "work pools",
        "deployments",
        "schedules",
        "alerts",
    ]


def test_pools_and_deployments_of_a_server_are_held_to_the_project(
    prefect_server: str, tmp_path: Path
) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate

    from flows.server import answers
    from tasks.operations.doctor import server

    def look(**fields: Any) -> dict[str, Finding]:
        checks = server(config(tmp_path, **fields), prefect_server, answers, {"doctored": "doctor-cpu"})
        return {finding.check: finding for finding in findings.examine(checks)}

    found = look(placement="pools", pools={"sft": "doctor-gpu"})
    assert found["server"].verdict == "ok"
    assert found["pool doctor-cpu"].verdict == "warning"  # nobody misses it yet
    assert found["pool doctor-gpu"].verdict == "error" and "pools.sft" in found["pool doctor-gpu"].found
    assert "doctored" in found["deployments"].found
    with get_client(sync_client=True) as client:
        pool = client.create_work_pool(WorkPoolCreate(name="doctor-cpu", type="process"))
        try:
            assert "make worker POOL=doctor-cpu" in look()["pool doctor-cpu"].todo
            client._client.post(
                "/work_pools/doctor-cpu/workers/heartbeat", json={"name": "w"}
            ).raise_for_status()
            assert look()["pool doctor-cpu"].verdict == "ok"
        finally:
            client.delete_work_pool(pool.name)

"""`sif doctor` for a part of a run, and for the demo: it asks for nothing that the run does not need."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sifthinker.config import parse
from sifthinker.upkeep import doctor, endpoint_checks, machine_checks
from tasks.operations import doctor as of_prefect

SOURCES = [{"name": "mine", "format": "viscot", "path": "x.json"}]
API = {"base_url": "https://llm.example.org/v1", "model": "m", "api_key_env": ""}


def fields(check: Any) -> list[str]:
    return [finding.check for finding in check]


def test_a_data_set_needs_no_policy_no_gpu_and_no_judge() -> None:
    config = parse({"sources": SOURCES, "annotate": {"api": API}}, "test")
    stages = {"depth-weights", "ingest", "expand", "depth", "annotate", "publish"}
    checks = doctor.machine(config, False, stages)
    assert not {"GPU", "vLLM", "servers", "benchmarks"} & checks.keys()
    assert fields(checks["weights"]()) == ["depth.weights"]
    assert fields(checks["endpoints"]()) == ["endpoint annotate"]
    assert set(doctor.machine(config, False)) - set(checks) == {"GPU", "vLLM", "servers", "benchmarks"}


@pytest.mark.parametrize(
    ("weights", "trains", "verdict"),
    [("miniature", True, "ok"), ("tiny", True, "ok"), ("a/b", True, "warning"), ("a/b", False, "ok")],
)
def test_small_models_and_data_sets_need_no_200_gb(
    tmp_path: Path, weights: str, trains: bool, verdict: str
) -> None:
    config = parse({"scenes": {}, "store": str(tmp_path), "model": {"weights": weights}}, "test")
    found = next(iter(machine_checks.disk(config, lambda path: (int(1e12), 0, int(20e9)), trains)))
    assert found.verdict == verdict


@pytest.mark.parametrize(
    ("sources", "base_url", "verdict"),
    [((), "standin", "ok"), (SOURCES, "standin", "warning"), (SOURCES, "", "error"), ((), "", "error")],
)
def test_an_endpoint_is_named_and_a_stand_in_for_real_sources_is_warned_of(
    sources: Any, base_url: str, verdict: str
) -> None:
    inputs = {"sources": sources} if sources else {"scenes": {}}
    config = parse({**inputs, "annotate": {"api": {"base_url": base_url}}}, "test")
    [found] = endpoint_checks.endpoints(config, False, {"annotate"})
    assert found.verdict == verdict and bool(found.todo) == (verdict != "ok")


@pytest.mark.parametrize(
    ("kind", "url", "api", "verdict"),
    [
        ("ext4", "", "http://127.0.0.1:4300/api", "ok"),
        ("nfs4", "", "http://127.0.0.1:4300/api", "warning"),
        ("nfs4", "postgresql+asyncpg://u:secret@h/p", "http://127.0.0.1:4300/api", "ok"),
        ("nfs4", "sqlite+aiosqlite:////shared/prefect.db", "http://127.0.0.1:4300/api", "warning"),
        ("nfs4", "", "http://prefect.example.org/api", ""),  # that machine's
    ],
)
def test_prefects_database_on_a_network_file_system_is_warned_of(
    monkeypatch: pytest.MonkeyPatch, kind: str, url: str, api: str, verdict: str
) -> None:
    monkeypatch.setattr(of_prefect, "filesystem", lambda folder: kind)
    monkeypatch.setenv("PREFECT_SERVER_DATABASE_CONNECTION_URL", url)
    found = list(of_prefect.database(api))
    assert [finding.verdict for finding in found] == ([verdict] if verdict else [])
    assert "secret" not in str(found)

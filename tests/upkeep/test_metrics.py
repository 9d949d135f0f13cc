"""`sif metrics`: what a store says to Prometheus, and the dashboard that draws it."""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import urllib.request
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import prometheus_client
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from typer.testing import CliRunner

from flows.commands import main
from sifthinker.core.errors import UserError
from sifthinker.llm.ledger_sqlite import SqliteLedger
from sifthinker.store import s3
from sifthinker.store.artifacts import Store
from sifthinker.upkeep import metrics

ROOT = Path(__file__).resolve().parents[2]
DASHBOARD = ROOT / "infra" / "grafana.json"
SCORE = {
    "benchmark": "vstar",
    "metric": "overall",
    "official": 0.5,
    "strict": 0.25,
    "n": 200,
    "unparsable": 10,
}
SCORE |= {"low": 0.2, "high": 0.3, "unit": "share", "limit": None, "missing": None}


def filled(root: Path) -> Store:
    """A store with a run that is at grpo, after an evaluation and a paid annotation, and with a night."""
    store = Store(root)
    stages = {}
    for name, rows, cost in (
        ("annotate", {"in": 5, "kept": 3, "rejected": {"boxes": 2}}, "1.5000 CNY, 0.2500 USD"),
        ("evaluate", {"in": 200, "kept": 200, "rejected": {}}, ""),
    ):
        with store.making(name, "0" * 20, {}) as draft:
            draft.rows = rows  # type: ignore[assignment]
            draft.notes.update({"cost": cost} if cost else {})
            if name == "evaluate":
                (draft.out / "scores.json").write_text(json.dumps({"scores": [SCORE]}))
        stages[name] = {"stage": name, "key": "0" * 20, "digest": "d"}
    at = {"label": "grpo", "stage": "grpo", "key": "1" * 20, "since": 50.0}
    steps = [
        {"step": 1, "total": 4, "loss": 0.1, "reward": 0.2, "kl": 0.0},
        {"step": 2, "total": 4, "loss": 0.2, "reward": 0.4, "kl": 0.01, "rewards/answer/mean": 0.6},
    ]
    text = "".join(json.dumps(step) + "\n" for step in steps)
    text += '{"step": 2, "tot{"step": 2}\n{"step": 3, "tot'  # a damaged line, and one that is being written
    (store.work("grpo", "1" * 20) / "progress.jsonl").write_text(text)
    run = {"id": "one", "name": "mine of today", "started": 10.0, "state": "running"}
    store.record(root / "runs" / "one.json", {**run, "config": {"name": "mine"}, "stages": stages, "at": at})
    store.record(
        root / "runs" / "old.json",
        {**run, "id": "old", "started": 1.0, "state": "failed", "config": {"name": "mine"}, "stages": {}},
    )
    (root / "history").mkdir()
    night = {
        "started": [datetime(2026, 11, 29, tzinfo=UTC)],
        "target": ["promoted"],
        "outcome": ["regressed"],
    }
    pq.write_table(pa.table(night), root / "history" / "n.parquet")
    SqliteLedger(root / "calls.sqlite").close()
    with closing(sqlite3.connect(root / "calls.sqlite")) as db, db:
        db.execute("INSERT INTO accounts VALUES ('host model', 7, 100, 10, 50, 2.5)")
    return store


def read(store: Store) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    registry = CollectorRegistry()
    registry.register(metrics.StoreCollector(store))
    found = text_string_to_metric_families(generate_latest(registry).decode())
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in found
        for sample in family.samples
    }


def value(found: Any, name: str, **labels: str) -> float:
    return float(found[name, frozenset(labels.items())])


def test_rows_money_calls_training_scores_and_nights_are_served(tmp_path: Path) -> None:
    found = read(filled(tmp_path))
    of = {"configuration": "mine"}
    assert value(found, "sif_stage_rows", **of, stage="annotate", outcome="kept") == 3
    assert value(found, "sif_stage_rejected_rows", **of, stage="annotate", reason="boxes") == 2
    assert value(found, "sif_stage_cost", **of, stage="annotate", currency="CNY") == 1.5
    assert value(found, "sif_stage_cost", **of, stage="annotate", currency="USD") == 0.25
    assert value(found, "sif_runs", state="running") == value(found, "sif_runs", state="failed") == 1
    assert value(found, "sif_run_started_timestamp_seconds", **of, state="running") == 10
    assert value(found, "sif_stage_under_way_timestamp_seconds", **of, stage="grpo") == 50
    grpo = {**of, "stage": "grpo"}
    assert value(found, "sif_training_step", **grpo) == 2 and value(found, "sif_training_steps", **grpo) == 4
    assert (
        value(found, "sif_training_reward", **grpo) == 0.4 and value(found, "sif_training_kl", **grpo) == 0.01
    )
    assert value(found, "sif_training_reward_part", **grpo, reward="answer") == 0.6
    score = {**of, "stage": "evaluate", "benchmark": "vstar", "metric": "overall"}
    assert value(found, "sif_score", **score, kind="strict") == 25
    assert value(found, "sif_unparsable_percent", **score) == 5
    assert value(found, "sif_api_calls_total", account="host model") == 7
    assert value(found, "sif_api_tokens_total", account="host model", kind="completion") == 50
    assert value(found, "sif_api_money_total", account="host model") == 2.5
    assert value(found, "sif_night_outcome", target="promoted", outcome="regressed") == 1
    ended = (tmp_path / "history" / "n.parquet").stat().st_mtime
    assert value(found, "sif_night_ended_timestamp_seconds", target="promoted") == pytest.approx(ended, abs=1)
    assert value(found, "sif_night_outcome", target="promoted", outcome="passed") == 0
    assert {name for name, _ in found} <= {
        f"{name}_total" if family.counter else name for name, family in metrics.FAMILIES.items()
    }


def test_what_cannot_be_read_is_said_and_the_rest_is_served(tmp_path: Path) -> None:
    store = filled(tmp_path)
    (tmp_path / "calls.sqlite").write_bytes(b"no database" * 100)
    (tmp_path / "history" / "n.parquet").write_bytes(b"no table")
    found = read(store)
    assert (
        value(found, "sif_part_readable", part="ledger")
        == value(found, "sif_part_readable", part="nights")
        == 0
    )
    assert value(found, "sif_part_readable", part="runs") == 1
    assert value(found, "sif_stage_rows", configuration="mine", stage="annotate", outcome="in") == 5


def test_several_scrapes_in_a_moment_cost_one_look(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    collector = metrics.StoreCollector(filled(tmp_path))
    looks: list[Store] = []
    look = metrics._look
    monkeypatch.setattr(metrics, "_look", lambda store, more: looks.append(store) or look(store, more))
    for _ in range(3):
        assert list(collector.collect())
    assert len(looks) == 1


def test_an_empty_store_has_metrics_too(tmp_path: Path) -> None:
    assert {name for name, _ in read(Store(tmp_path))} == {"sif_part_readable", "sif_look_seconds"}


def test_once_prints_them(tmp_path: Path) -> None:
    filled(tmp_path)
    done = CliRunner().invoke(main.app, ["metrics", "--once", "--store", str(tmp_path)])
    assert done.exit_code == 0 and 'sif_api_calls_total{account="host model"} 7.0' in done.stdout
    assert "# HELP sif_score Score of 100 of the latest evaluation" in done.stdout


def test_a_remote_that_is_away_at_the_start_is_a_warning_and_the_store_is_served(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    filled(tmp_path)
    (tmp_path / "remote.json").write_text(json.dumps({"url": "s3://bucket/prefix"}))
    monkeypatch.setattr(s3.Remote, "list", lambda *_: (_ for _ in ()).throw(UserError("no credentials")))
    done = CliRunner().invoke(main.app, ["metrics", "--once", "--store", str(tmp_path)])
    assert done.exit_code == 0 and 'sif_api_calls_total{account="host model"} 7.0' in done.stdout
    assert 'sif_part_readable{part="runs"} 0.0' in done.stdout
    assert "what other machines have written cannot be fetched now: no credentials" in caplog.text


def test_they_are_served_until_the_command_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    filled(tmp_path)
    served: dict[str, str] = {}
    servers: list[Any] = []
    start = prometheus_client.start_http_server

    def started(port: int, host: str, registry: CollectorRegistry) -> Any:
        servers.append(start(port, host, registry))
        return servers[0]

    def interrupted(_: float) -> None:
        address = f"http://127.0.0.1:{servers[0][0].server_port}/metrics"
        served["text"] = urllib.request.urlopen(address, timeout=10).read().decode()
        raise KeyboardInterrupt

    monkeypatch.setattr(prometheus_client, "start_http_server", started)
    monkeypatch.setattr("flows.commands.metrics.time.sleep", interrupted)
    CliRunner().invoke(main.app, ["metrics", "--port", "0", "--store", str(tmp_path)])
    server, thread = servers[0]
    taken = server.server_port
    assert "sif_training_kl" in served["text"]
    with pytest.raises(UserError, match=f"127.0.0.1:{taken} cannot be listened at"):
        done = CliRunner().invoke(main.app, ["metrics", "--port", str(taken), "--store", str(tmp_path)])
        assert done.exception
        raise done.exception
    server.shutdown()
    assert isinstance(thread, threading.Thread)


def expressions(board: dict[str, Any]) -> list[str]:
    queries = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    return queries + [
        of["query"]["query"] for of in board["templating"]["list"] if isinstance(of["query"], dict)
    ]


def test_the_dashboard_draws_every_metric_and_no_other() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    drawn = {name for text in expressions(board) for name in re.findall(r"sif_\w+", text)}
    served = {f"{name}_total" if family.counter else name for name, family in metrics.FAMILIES.items()}
    assert drawn == served


def test_the_dashboard_asks_by_labels_that_the_metrics_have() -> None:
    board = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    for text in expressions(board):
        for name, matched in re.findall(r"(sif_\w+)\{([^}]*)\}", text):
            labels = set(re.findall(r"(\w+)=", matched))
            assert labels <= set(metrics.FAMILIES[name.removesuffix("_total")].labels), text
    legends = [target["legendFormat"] for panel in board["panels"] for target in panel["targets"]]
    known = {label for family in metrics.FAMILIES.values() for label in family.labels}
    assert {label for legend in legends for label in re.findall(r"\{\{(\w+)\}\}", legend)} <= known


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    cells: set[tuple[int, int]] = set()
    for panel in json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & cells and at["x"] + at["w"] <= 24
        cells |= own


def test_the_sample_scrape_asks_where_the_command_listens() -> None:
    [job] = yaml.safe_load((ROOT / "infra" / "prometheus.yml").read_text(encoding="utf-8"))["scrape_configs"]
    [targets] = job["static_configs"]
    shown = CliRunner().invoke(main.app, ["metrics", "--help"], env={"COLUMNS": "200"}).output
    assert targets["targets"] == ["127.0.0.1:9464"] and "[default: 9464]" in shown

"""Prometheus' alerts: they ask for metrics and labels that there are, and fire when they should.

What Prometheus itself says of them is looked at where its `promtool` is installed (Debian's package `prometheus`).
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from sifthinker.evaluation import history
from sifthinker.upkeep import metrics

INFRA = Path(__file__).resolve().parents[2] / "infra"
RULES = INFRA / "alert_rules.yaml"
PROMTOOL = shutil.which("promtool")
needs_promtool = pytest.mark.skipif(PROMTOOL is None, reason="no promtool here")
OURS = '{instance="a:9464", job="sifthinker"}'
# By alert: series of one sample a minute, and the minute by which it has fired. A server that is down says nothing of late runs.
FIRES: dict[str, tuple[dict[str, str], int]] = {
    "SifServerDown": ({f"sif_server_up{OURS}": "0x60"}, 5),
    "SifMetricsDown": ({'up{instance="a:9464", job="sifthinker"}': "0x60"}, 12),
    "SifPartUnreadable": (
        {
            f"sif_server_up{OURS}": "1x60",
            'sif_part_readable{instance="a:9464", job="sifthinker", part="runs"}': "0x60",
        },
        17,
    ),
    "SifRunsLate": ({f"sif_server_up{OURS}": "1x60", f"sif_server_late_seconds{OURS}": "0+60x60"}, 32),
    "SifSchedulerStandsStill": (
        {f"sif_server_up{OURS}": "1x60", f"sif_server_unscheduled_deployments{OURS}": "1x60"},
        12,
    ),
    # The clock of the test begins at 0.
    "SifNoNight": (
        {f"sif_server_up{OURS}": "1x3000", 'sif_night_ended_timestamp_seconds{target="promoted"}': "60x3000"},
        36 * 60 + 5,
    ),
    "SifNightFell": (
        {f"sif_server_up{OURS}": "1x60", 'sif_night_outcome{target="promoted", outcome="regressed"}': "1x60"},
        1,
    ),
}
WELL = {
    f"sif_server_up{OURS}": "1x60",
    f"sif_server_late_seconds{OURS}": "0x60",
    f"sif_server_unscheduled_deployments{OURS}": "0x60",
    'sif_part_readable{instance="a:9464", job="sifthinker", part="runs"}': "1x60",
    'sif_night_ended_timestamp_seconds{target="promoted"}': "60x60",
    'sif_night_outcome{target="promoted", outcome="passed"}': "1x60",
    'sif_night_outcome{target="promoted", outcome="regressed"}': "0x60",
    'up{instance="a:9464", job="sifthinker"}': "1x60",
}


def rules() -> list[dict[str, Any]]:
    [group] = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return list(group["rules"])


def test_the_alerts_ask_for_metrics_and_labels_that_there_are() -> None:
    names = {f"{name}_total" if family.counter else name for name, family in metrics.FAMILIES.items()}
    for rule in rules():
        asked = set(re.findall(r"\bsif_\w+", rule["expr"]))
        assert asked and asked <= names, rule["alert"]
        for name, matched in re.findall(r"(sif_\w+)\{([^}]*)\}", rule["expr"]):
            assert set(re.findall(r"(\w+)=", matched)) <= set(metrics.FAMILIES[name].labels), rule["alert"]
        shown = set(re.findall(r"\$labels\.(\w+)", str(rule["annotations"])))
        assert shown <= {label for name in asked for label in metrics.FAMILIES[name].labels}, rule["alert"]


def test_the_outcomes_of_nights_that_are_told_of_are_those_of_nights() -> None:
    [expression] = [rule["expr"] for rule in rules() if rule["alert"] == "SifNightFell"]
    [told] = re.findall(r'outcome=~"([^"]*)"', expression)
    assert {*told.split("|"), history.WARNED, history.PASSED} == set(history.WORST_FIRST)


def test_the_sample_of_prometheus_names_the_rules() -> None:
    sample = yaml.safe_load((INFRA / "prometheus.yml").read_text(encoding="utf-8"))
    assert sample["rule_files"] == [RULES.name]
    jobs = {job["job_name"] for job in sample["scrape_configs"]}
    assert {job for rule in rules() for job in re.findall(r'job="(\w+)"', rule["expr"])} == jobs


def promtool(*arguments: str) -> None:
    done = subprocess.run([str(PROMTOOL), *arguments], capture_output=True, text=True, cwd=INFRA)
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_prometheus_takes_the_rules_and_the_sample() -> None:
    promtool("check", "rules", RULES.name)
    promtool("check", "config", "prometheus.yml")


def fired(
    tmp_path: Path, series: dict[str, str], minute: int, alerts: dict[str, list[dict[str, Any]]]
) -> None:
    """Asserts what of the alerts fires at a minute, by Prometheus' own evaluation."""
    case = {
        "interval": "1m",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "alert_rule_test": [
            {"eval_time": f"{minute}m", "alertname": name, "exp_alerts": expected}
            for name, expected in alerts.items()
        ],
    }
    file = tmp_path / "test.yaml"
    file.write_text(
        yaml.safe_dump({"rule_files": [str(RULES)], "evaluation_interval": "1m", "tests": [case]})
    )
    promtool("test", "rules", str(file))


@needs_promtool
@pytest.mark.parametrize("name", FIRES)
def test_an_alert_fires(name: str, tmp_path: Path) -> None:
    series, minute = FIRES[name]
    with pytest.raises(AssertionError, match=f"{name}.*\\n.*exp:\\[\\]"):
        fired(tmp_path, series, minute, {name: []})


@needs_promtool
def test_nothing_fires_while_all_is_well(tmp_path: Path) -> None:
    fired(tmp_path, WELL, 55, {rule["alert"]: [] for rule in rules()})


def test_each_alert_has_a_case_that_fires_it() -> None:
    assert [rule["alert"] for rule in rules()] == list(FIRES)


@needs_promtool
def test_a_dead_server_is_one_alert_and_not_a_part_more(tmp_path: Path) -> None:
    part = 'sif_part_readable{instance="a:9464", job="sifthinker", part="server"}'
    fired(tmp_path, {f"sif_server_up{OURS}": "0x60", part: "0x60"}, 50, {"SifPartUnreadable": []})

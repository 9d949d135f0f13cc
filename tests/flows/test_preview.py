"""`sif preview`, then `sif annotate`, then `--again`, through the whole flow: every request is paid once."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from sifthinker.llm import standin
from tests.flows.test_end_to_end import line, manifests, states

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]


def test_a_preview_is_part_of_the_run_and_what_is_answered_is_not_asked_again(
    tmp_path: Path, prefect_server: str
) -> None:
    store = tmp_path / "store"
    with standin.running(tmp_path / "standin.log") as url:
        settings = [
            "scenes.rows=16",
            f"annotate.api.base_url={url}",
            "ingest.shards=2",
            "evaluate.benchmarks=[]",
        ]

        def sif(command: str, *arguments: str, code: int = 0) -> str:
            asked = line(store, command, arguments, settings)
            done = subprocess.run(asked, capture_output=True, text=True, timeout=500, env=os.environ)
            assert done.returncode == code, done.stdout + done.stderr
            return done.stdout + done.stderr

        said = sif("preview", "--rows", "3")
        assert "3 of 3 rows have a chain; 3 calls, 3 of them made now" in said
        assert "all 16 rows would take about 16 calls" in said
        page = Path(re.search(r"page +(\S+)", said)[1])  # type: ignore[index]
        assert page.read_text(encoding="utf-8").count("Answer: ") == 3
        assert standin.counts(url)["answered"] == 3

        said = sif("annotate", "--verbose")
        assert "probe: row " in said
        assert manifests(store)["annotate"]["rows"]["kept"] == 16
        assert standin.counts(url)["answered"] == 16

        said = sif("annotate", "--again", "--reason", "bad-request")
        assert "0 refused requests are asked again" in said
        assert states(store)["annotate"] == "Completed"  # made again, from the ledger

        said = sif("annotate", "--retry", "--model", "other", "--reason", "malfromed", code=2)
        assert "no row was rejected for malfromed; the rows that can be asked again: none" in said
        assert standin.counts(url)["answered"] == 16


NO_VLLM = pytest.mark.skipif(shutil.which("vllm") is None, reason="there is no vllm on the PATH")


@pytest.mark.parametrize(
    "served_by",
    ["transformers", pytest.param("vllm", marks=[pytest.mark.slow, pytest.mark.timeout(1800), NO_VLLM])],
)
def test_a_model_of_this_machine_annotates_and_the_page_says_why_there_is_no_chain(
    tmp_path: Path, prefect_server: str, served_by: str
) -> None:
    model = Path(__file__).resolve().parents[2] / "sifthinker" / "models" / "miniature" / "policy"
    settings = [
        "scenes.rows=4",
        "ingest.shards=1",
        "annotate.api.base_url=local",
        f"annotate.api.model={model}",
        f"annotate.api.local_server={served_by}",
        "annotate.attempts=1",
        "annotate.max_tokens=64",
        "evaluate.benchmarks=[]",
    ]
    asked = line(tmp_path / "store", "preview", ("--rows", "2"), settings)
    done = subprocess.run(asked, capture_output=True, text=True, timeout=1700, env=os.environ)
    said = done.stdout + done.stderr
    assert done.returncode == 0, said
    assert "0 of 2 rows have a chain; 2 calls, 2 of them made now" in said  # it knows another task
    page = Path(re.search(r"page +(\S+)", said)[1])  # type: ignore[index]
    assert "No chain after 1 try" in page.read_text(encoding="utf-8")

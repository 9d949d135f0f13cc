"""`sif run` does not end green with nothing in its data set: it says why, early, and leaves what was paid."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from sifthinker.core.tables import read
from tests.flows.test_end_to_end import SIF

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]
ROWS = 24


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., Path]:
    """Writes pictures, a TallyQA file of `ROWS` rows and a configuration; some rows may lack boxes."""

    def write(without_boxes: int = 0, **annotate: object) -> Path:
        images = tmp_path / "images"
        images.mkdir(exist_ok=True)
        rows = []
        for number in range(ROWS):
            pixels = np.full((60, 80, 3), 10 * number, np.uint8)
            pixels[10:30, 10:30] = (200, 30, 30)
            Image.fromarray(pixels).save(images / f"{number}.png")
            boxes = {} if number < without_boxes else {"bboxs": [[10, 10, 30, 30]]}
            rows.append(
                {
                    "question": "How many?",
                    "answer": 1,
                    "image": f"{number}.png",
                    "question_id": number,
                    **boxes,
                }
            )
        (tmp_path / "rows.json").write_text(json.dumps(rows))
        source = {
            "name": "t",
            "format": "tallyqa",
            "path": str(tmp_path / "rows.json"),
            "images": str(images),
        }
        values = {
            "name": "nothing",
            "sources": [source],
            "ingest": {"shards": 2},
            "depth": {"weights": "miniature", "size": 70},
            "model": {"weights": "tiny", "max_pixels": 50176},
            "annotate": {"give_up_after": 8, **annotate},
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def refusing() -> Iterator[tuple[str, list[int]]]:
    """An endpoint that takes no request, and how many it got."""
    calls: list[int] = []
    said = json.dumps({"error": {"message": "Unsupported parameter: 'max_tokens' is not supported"}}).encode()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            calls.append(1)
            self.send_response(400)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/v1", calls
    server.shutdown()
    server.server_close()


def sif(tmp_path: Path, config: Path, *more: str) -> tuple[int, str]:
    fields = [f"store={tmp_path / 'store'}", *more]
    settings = [text for field in fields for text in ("--set", field)]
    command = [SIF, "run", "--config", str(config), "--stop-after", "publish", *settings]
    done = subprocess.run(command, capture_output=True, text=True, timeout=500, env=os.environ)
    return done.returncode, done.stdout + done.stderr


def test_an_endpoint_that_refuses_every_row_ends_the_run_early(tmp_path, prefect_server, config, refusing):
    url, calls = refusing
    code, said = sif(tmp_path, config(api={"base_url": url, "model": "m", "concurrency": 2}))
    assert code == 2, said
    assert "Nothing more was asked" in said
    assert "Unsupported parameter: 'max_tokens'" in said
    assert "set token_limit_field: max_completion_tokens" in said
    assert len(calls) == 1
    assert not list((tmp_path / "store").glob("annotate/*/manifest.json"))
    assert not (tmp_path / "store" / "publish").exists()
    with sqlite3.connect(tmp_path / "store" / "calls.sqlite") as ledger:
        states = ledger.execute("SELECT state FROM calls").fetchall()
    assert states == [("failed",)]  # and not refused for good


def test_most_rows_without_boxes_end_the_run_at_ingest_unless_that_is_allowed(
    tmp_path, prefect_server, config
):
    path = config(without_boxes=16, api={"base_url": "standin", "model": "standin-annotator"})
    code, said = sif(tmp_path, path)
    assert code == 2, said
    assert "16 of 24 rows were rejected, and max_rejected = 0.5 allows 50%: no-box 16" in said
    assert "give GRIT's file" in said
    (left,) = (tmp_path / "store").glob("ingest/*.work/rejects.parquet")
    assert len(list(read(left))) == 16
    assert not (tmp_path / "store" / "annotate").exists()

    code, said = sif(tmp_path, path, "max_rejected=0.7")
    assert code == 0, said
    lines = [" ".join(text.split()) for text in said.splitlines()]
    assert any(line.startswith("ingest 24 8 16: no-box") for line in lines)
    assert any(line.startswith("publish 8 8 ") for line in lines)

"""One question to a served model, over real HTTP: streamed or whole, the pictures, and what goes wrong."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker.config import Config
from sifthinker.core import depth_maps, prompts
from sifthinker.core.errors import UserError
from sifthinker.evaluation import ask, running_server

CHAIN = (
    "<think>\n"
    '<area>[{"bbox_2d": [0.0, 0.0, 1.0, 1.0], "depth": 0.512}]</area>\n<text>A room.</text>\n'
    '<area>[{"bbox_2d": [0.0, 0.0, 0.5, 1.0], "depth": 0.3}, {"bbox_2d": [0.5, 0.0, 1.0, 1.0], "depth": 0.7}]</area>\n'
    "<text>Left and right.</text>\n</think>\n<answer>\na cup\n</answer>"
)


class Server(ThreadingHTTPServer):
    """An OpenAI-compatible server with one reply."""

    def __init__(self, reply: str, streams: bool = True, status: int = 200) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.reply, self.streams, self.status = reply, streams, status
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_GET(self) -> None:
        self._send("application/json", json.dumps({"data": [{"id": "policy"}]}))

    def do_POST(self) -> None:
        self.server.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        if self.server.status != 200:
            self._send("application/json", '{"error": "too many tokens"}', self.server.status)
        elif self.server.streams:
            pieces = [self.server.reply[i : i + 7] for i in range(0, len(self.server.reply), 7)]
            events = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
            lines = ["data: " + json.dumps(event) for event in [*events, {"choices": []}]]
            self._send("text/event-stream; charset=utf-8", "\n\n".join([*lines, "data: [DONE]"]) + "\n\n")
        else:
            self._send(
                "application/json", json.dumps({"choices": [{"message": {"content": self.server.reply}}]})
            )

    def _send(self, kind: str, text: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(text.encode())))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def start() -> Iterator[Any]:
    running: list[Server] = []

    def start(*arguments: Any, **named: Any) -> Server:
        server = Server(*arguments, **named)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        running.append(server)
        return server

    yield start
    for server in running:
        server.shutdown()
        server.server_close()


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    path = tmp_path / "photo.png"
    Image.new("RGB", (40, 30), "grey").save(path)
    return path


def relief() -> bytes:
    """Left half nearest, right half farthest."""
    values = np.zeros((30, 40), np.float32)
    values[:, 20:] = 1.0
    return depth_maps.encode(values)


def config(**sections: Any) -> Config:
    return Config.model_validate({"scenes": {}, **sections})


@pytest.mark.parametrize("streams", [True, False])
def test_the_chain_is_said_as_it_comes_and_every_area_is_drawn_with_its_depth(
    start: Any, photo: Path, tmp_path: Path, streams: bool
) -> None:
    server, said = start(CHAIN, streams), []
    out = tmp_path / "out"
    answered = ask.ask(
        photo, "What is it?", ask.Server(server.url, "policy"), relief(), config(), out, said.append
    )
    assert "".join(said) == answered.reply == CHAIN
    assert (len(said) > 10) is streams
    assert (answered.answer, answered.problem) == ("a cup", "")
    assert [[region.depth for region in area] for area in answered.areas] == [[0.512], [0.3, 0.7]]
    assert answered.measured == ((0.5,), (0.0, 1.0))
    names = ["reply.txt", "depth.png", "chain.jpg", "step-1.jpg", "step-2.jpg"]
    assert [path.name for path in answered.files] == names
    assert (out / "reply.txt").read_text() == CHAIN
    with Image.open(io.BytesIO((out / "step-2.jpg").read_bytes())) as picture:
        assert picture.size == (480, 388)  # the photograph with a line of text above


def test_a_second_question_into_the_same_folder_leaves_nothing_of_the_first(
    start: Any, photo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "asked"
    out.mkdir()
    (out / "step-9.jpg").write_text("of somebody else: no question was asked into this folder yet")
    for reply in (CHAIN, "a cup"):
        ask.ask(
            photo, "?", ask.Server(start(reply).url, "policy"), relief(), config(), out, lambda piece: None
        )
        if reply == CHAIN:
            assert (out / "step-9.jpg").exists() and (out / "step-2.jpg").exists()
    assert sorted(path.name for path in out.iterdir()) == ["chain.jpg", "depth.png", "reply.txt"]


def test_the_model_is_asked_as_in_training(start: Any, photo: Path, tmp_path: Path) -> None:
    server = start(CHAIN)
    ask.ask(
        photo, "What is it?", ask.Server(server.url, "policy"), relief(), config(), tmp_path, lambda _: None
    )
    [body] = server.asked
    content = body["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url", "text", "image_url", "text"]
    assert content[-1]["text"] == f"\nWhat is it?{prompts.THINK_SUFFIX}"
    assert body["temperature"] == 0.0
    plain = config(model={"depth_input": False}, evaluate={"think": False})
    ask.ask(photo, "What is it?", ask.Server(server.url, "policy"), None, plain, tmp_path, lambda _: None)
    content = server.asked[1]["messages"][0]["content"]
    assert [part["type"] for part in content] == ["text", "image_url", "text"]
    assert content[-1]["text"] == "\nWhat is it?"


def test_a_reply_that_is_no_chain_is_kept_and_said_so(start: Any, photo: Path, tmp_path: Path) -> None:
    server = start("I see a cup.")
    answered = ask.ask(
        photo, "?", ask.Server(server.url, "policy"), relief(), config(), tmp_path / "o", lambda _: None
    )
    assert (answered.answer, answered.areas, answered.measured) == (None, (), ())
    assert "there is no <think>" in answered.problem
    assert (tmp_path / "o" / "reply.txt").read_text() == "I see a cup."


def test_what_goes_wrong_is_said_with_the_address(start: Any, photo: Path, tmp_path: Path) -> None:
    refusing = start(CHAIN, status=400)
    with pytest.raises(UserError, match=r"/v1/chat/completions: 400: .*too many tokens"):
        ask.ask(photo, "?", ask.Server(refusing.url, "policy"), relief(), config(), tmp_path, lambda _: None)
    with pytest.raises(UserError, match=r"no list of models at http://127\.0\.0\.1:9/v1/models"):
        running_server.served("http://127.0.0.1:9/v1")
    with pytest.raises(UserError, match=r"absent\.png"):
        ask.picture(tmp_path / "absent.png", config())
    assert running_server.served(refusing.url) == ["policy"]
    running_server.check("transformers")  # started by the stage: nothing to ask yet

"""A fake of the part of vLLM's HTTP interface that `vllm_lora` uses. It really samples: with transformers, one by one.

tests/training/test_vllm_cpu.py asks it and the real vLLM the same, and compares the answers.
"""

import copy
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel
from transformers import GenerationConfig

from sifthinker.core import images
from sifthinker.models import loading
from sifthinker.models.serving import MODEL_NAME


class VllmLora(ThreadingHTTPServer):
    """Serves a folder under `policy`, and adapters by name.

    Attributes:
        asked: Path and body of each request.
        deaf: It answers as the base, whichever adapter is asked for.
        more: A token that it adds to each prompt, as another version of the processor may.
    """

    daemon_threads = True
    deaf = False
    more: int | None = None

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.processor = loading.load_processor(folder)
        self.base = loading.load_policy(folder, "fp32")
        self.adapters: dict[str, Any] = {}
        self.asked: list[tuple[str, Any]] = []
        self.lock = threading.Lock()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/v1"

    def bodies(self, path: str) -> list[Any]:
        return [body for asked, body in self.asked if asked == path]

    def load(self, name: str, folder: Path) -> tuple[int, Any]:
        if name in self.adapters:
            return 400, _error(f"The lora adapter '{name}' has already been loaded.")
        if not (folder / "adapter_config.json").is_file():
            return 404, _error(f"Loading lora {name} failed: No adapter found for {folder}")
        self.adapters[name] = PeftModel.from_pretrained(copy.deepcopy(self.base), folder).eval()
        return 200, None

    def unload(self, name: str) -> tuple[int, Any]:
        if name not in self.adapters:
            return 404, _error(f"The lora adapter '{name}' cannot be found.")
        del self.adapters[name]
        return 200, None

    def models(self) -> tuple[int, Any]:
        names: list[tuple[str, str | None]] = [
            (MODEL_NAME, None),
            *((name, MODEL_NAME) for name in self.adapters),
        ]
        return 200, {"data": [{"id": n, "parent": parent, "owned_by": "vllm"} for n, parent in names]}

    def complete(self, body: dict[str, Any]) -> tuple[int, Any]:
        """As the real one answers: the sampled tokens, and their log-probabilities after temperature and bias."""
        if body["model"] not in (MODEL_NAME, *self.adapters):
            return 404, _error(f"The model `{body['model']}` does not exist.")
        model = self.base if self.deaf else self.adapters.get(body["model"], self.base)
        pictures = [
            images.rgb(images.from_data_url(part["image_url"]["url"]))
            for message in body["messages"]
            if not isinstance(message["content"], str)
            for part in message["content"]
            if part["type"] == "image_url"
        ]
        messages = json.loads(json.dumps(body["messages"]).replace('"image_url"', '"image"'))
        inputs = loading.encode(self.processor, messages, pictures)
        prompt = inputs["input_ids"][0].tolist()
        choices = [self._choice(model, inputs, body, number) for number in range(body["n"])]
        return 200, {
            "choices": choices,
            "prompt_token_ids": prompt if self.more is None else [*prompt, self.more],
        }

    def _choice(self, model: Any, inputs: Any, body: dict[str, Any], number: int) -> dict[str, Any]:
        settings = GenerationConfig(
            do_sample=body["temperature"] > 0,
            temperature=body["temperature"] or 1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=body["max_tokens"],
            suppress_tokens=[int(token) for token in body["logit_bias"]],
            eos_token_id=self.base.generation_config.eos_token_id,
            pad_token_id=self.base.generation_config.pad_token_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        torch.manual_seed(body["seed"] + number)
        made = model.generate(**inputs, generation_config=settings)
        ids = made.sequences[0, inputs["input_ids"].shape[1] :].tolist()
        scores = [
            score[0].log_softmax(-1)[token].item() for score, token in zip(made.scores, ids, strict=True)
        ]
        content = [{"token": str(token), "logprob": value} for token, value in zip(ids, scores, strict=True)]
        return {"index": number, "token_ids": ids, "logprobs": {"content": content}}


class Handler(BaseHTTPRequestHandler):
    server: VllmLora

    def do_GET(self) -> None:
        with self.server.lock:
            self._answer(*self.server.models())

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock, torch.random.fork_rng():
            self.server.asked.append((self.path, body))
            if self.path == "/v1/load_lora_adapter":
                found = self.server.load(body["lora_name"], Path(body["lora_path"]))
            elif self.path == "/v1/unload_lora_adapter":
                found = self.server.unload(body["lora_name"])
            else:
                found = self.server.complete(body)
        self._answer(*found)

    def _answer(self, status: int, content: Any) -> None:
        data = b"Success" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain" if content is None else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message}}

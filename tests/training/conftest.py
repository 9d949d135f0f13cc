"""A tiny model and a few SIF rows for the training programs, and a watch over shared memory for vLLM."""

import io
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image

from sifthinker.core import chain, depth_maps, records, tables
from sifthinker.models import loading
from tests.training.fake_judge import Judge

WIDTH, HEIGHT = 56, 42
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "yellow": (230, 220, 40)}

SMALL = {
    "batch": 8,
    "accumulation": 1,
    "generations": 4,
    "max_completion": 16,
    "epochs": 1,
    "lora": {"r": 4, "alpha": 8, "dropout": 0.1},
    "judge": {"base_url": "standin", "model": "fake", "retries": 0},
}


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    loading.build_tiny("qwen2_5_vl", 0, folder)
    return folder


def row(index: int) -> dict[str, Any]:
    """A coloured patch left or right on grey; the patch is near."""
    colour = list(COLOURS)[index % 4]
    left = 4 if index % 2 else 32
    image = np.full((HEIGHT, WIDTH, 3), 128, np.uint8)
    image[12:30, left : left + 20] = COLOURS[colour]
    near = np.tile(np.linspace(1, 0.4, HEIGHT, dtype=np.float32)[:, None], (1, WIDTH))
    near[12:30, left : left + 20] = 0.1
    x1, y1, x2, y2 = (round(v, 3) for v in (left / WIDTH, 12 / HEIGHT, (left + 20) / WIDTH, 30 / HEIGHT))
    regions = depth_maps.regions([[records.WHOLE], [(x1, y1, x2, y2)]], near)
    texts = ("A grey wall with a patch.", f"The patch is {colour}.")
    looks = tuple(chain.Step(*pair) for pair in zip(regions, texts, strict=True))
    return {
        "id": f"toy/patches/{index}",
        "source": "toy",
        "dataset": "patches",
        "split": "train",
        "question": f"What color is patch {index}?",
        "answer": colour,
        "width": WIDTH,
        "height": HEIGHT,
        "boxes": [[x1, y1, x2, y2]],
        "image": {"bytes": _png(image), "path": f"{index}.png"},
        "depth_image": {"bytes": depth_maps.picture(near), "path": f"{index}_d.png"},
        "depth_map": depth_maps.encode(near),
        "steps": [[{"box": list(r.box), "depth": r.depth} for r in step] for step in regions],
        "chain": chain.render(chain.Chain(looks, colour)),
        "model": "toy",
        "attempts": 1,
        "prompt_tokens": 0,
        "completion_tokens": 0,
    }


def _png(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.fixture(scope="session")
def sif(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight rows in the SIF schema."""
    path = tmp_path_factory.mktemp("sif") / "train.parquet"
    tables.write(path, tables.SIF, (row(i) for i in range(8)))
    return path


@pytest.fixture
def config_file(tmp_path: Path, base: Path, sif: Path) -> Callable[..., Path]:
    """Writes a program's configuration: `stage` sft or grpo, its settings, and what differs at the top."""

    def write(stage: str, name: str, settings: dict[str, Any], **top: Any) -> Path:
        common = {
            "learning_rate": 1e-3,
            "ranks": 1,
            "deepspeed": "none",
            "precision": "fp32",
            "save_steps": 2,
        }
        if stage == "grpo":
            common["generation"] = "transformers"  # also where a vLLM is on the PATH
        model = {"weights": "tiny", "max_pixels": 3136, **top.pop("model_settings", {})}
        values = {
            "model": str(base),
            "dataset": [str(sif)],
            "work": str(tmp_path / name / "work"),
            "out": str(tmp_path / name / "out"),
            "settings": {
                "model": model,
                stage: {**common, "gradient_checkpointing": False, **settings},
            },
            **top,
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(values))
        return path

    return write


@pytest.fixture
def judge() -> Iterator[Judge]:
    server = Judge()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def grpo_file(config_file: Callable[..., Path], judge: Judge, tmp_path: Path) -> Callable[..., Path]:
    """Writes the configuration of a small GRPO program with the fake judge: its name, and what differs."""

    def write(name: str, settings: dict[str, Any]) -> Path:
        url = f"http://127.0.0.1:{judge.server_port}/v1"
        return config_file(
            "grpo", name, {**SMALL, **settings}, judge_base_url=url, ledger=str(tmp_path / f"{name}.sqlite")
        )

    return write


@pytest.fixture(scope="module")
def shared_memory() -> Iterator[None]:
    """Nothing that vLLM makes in shared memory is left when its server has ended."""
    before = _segments()
    yield
    left = _segments() - before
    assert {name for name in left if not _is_used(name)} == set()


def _segments() -> set[str]:
    return {file.name for file in Path("/dev/shm").iterdir() if file.name.startswith(("psm_", "sem.mp-"))}


def _is_used(segment: str) -> bool:
    """Whether a process that runs has it in memory: another server's, on a machine that others use, too."""
    for maps in Path("/proc").glob("[0-9]*/maps"):
        with suppress(OSError):  # it has ended meanwhile
            if segment in maps.read_text(encoding="utf-8", errors="replace"):
                return True
    return False

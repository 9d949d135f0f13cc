"""Evaluations of a made-up benchmark, written as the evaluate stage writes them, for the tests of nights."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sifthinker.config import Config
from sifthinker.core import tables
from sifthinker.evaluation import statistics
from sifthinker.evaluation.nights.records import Evaluated
from sifthinker.evaluation.scoring import PREDICTIONS
from sifthinker.store.artifacts import Store

Verdicts = dict[str, Sequence[float | None]]  # by benchmark, a strict score a question; None = unparsable


def config(store: Path, **sections: Any) -> Config:
    return Config.model_validate({"store": store, "scenes": {}, "name": "test", **sections})


def picture(index: int) -> bytes:
    """A grey PNG, another one for every index."""
    pixels = np.full((30, 40, 3), 128, np.uint8)
    pixels[0, 0] = (index % 256, index // 256, 0)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, "PNG")
    return out.getvalue()


def row(benchmark: str, index: int, verdict: float | None, per_image: int = 1) -> dict[str, Any]:
    """A prediction; a right answer is "B", a wrong one "A", an unparsable one is no chain at all."""
    strict = verdict or 0.0
    said = "B" if strict else "A"
    area = '[{"bbox_2d": [0.1, 0.1, 0.5, 0.6], "depth": 0.4}]'
    return {
        "benchmark": benchmark,
        "id": f"q/{index}",
        "group": "q",
        "question": f"Which one is it, in picture {index}? (A) left (B) right",
        "reference": "B",
        "image_sha256": f"{index // per_image:064x}",
        "prompt_sha256": "",
        "reply": f"<think><area>{area}</area><text>Looking {said}.</text></think><answer>{said}</answer>"
        if verdict is not None
        else "The picture shows a picture of a picture",
        "answer": said if verdict is not None else "",
        "boxes": [[0.1, 0.1, 0.5, 0.6]] if verdict is not None else None,
        "read_as": said if verdict is not None else "",
        "official": strict,
        "strict": strict,
        "unparsable": "" if verdict is not None else "no-answer",
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "completion_tokens": 1,
    }


def score(benchmark: str, verdicts: Sequence[float | None]) -> dict[str, Any]:
    right = sum(verdict or 0.0 for verdict in verdicts)
    low, high = statistics.wilson(right, len(verdicts))
    mean = right / len(verdicts)
    return {
        "benchmark": benchmark,
        "metric": "overall",
        "official": mean,
        "strict": mean,
        "n": len(verdicts),
        "unparsable": sum(verdict is None for verdict in verdicts),
        "rejected": 0,
        "low": low,
        "high": high,
        "unit": "share",
        "limit": None,
        "missing": None,
    }


def evaluated(
    store: Store,
    key: str,
    verdicts: Verdicts,
    target: str = "promoted",
    missing: dict[str, str] | None = None,
    per_image: int = 1,
    rules: int | dict[str, int] = 1,
    boxless: int = 0,
) -> Evaluated:
    """An evaluation in the store.

    `per_image` questions in a row are about one image, `rules` scored its replies (all, or by benchmark), and the first `boxless` chains of each
    benchmark hold no box.
    """
    manifest = {"label": "evaluate", "name": "test", "identity": {}, "inputs": {}}
    with store.making("evaluate", key, manifest) as draft:
        predictions = [
            {**row(name, i, v, per_image), **({"boxes": None} if i < boxless else {})}
            for name, of in verdicts.items()
            for i, v in enumerate(of)
        ]
        tables.write(draft.out / "predictions.parquet", PREDICTIONS, predictions)
        scores = [score(name, of) for name, of in verdicts.items()]
        scores += [
            {
                **score(name, [0]),
                "strict": None,
                "official": None,
                "low": None,
                "high": None,
                "n": 0,
                "missing": why,
            }
            for name, why in (missing or {}).items()
        ]
        (draft.out / "scores.json").write_text(
            json.dumps({"model": target, "rules": rules, "scores": scores})
            if isinstance(rules, int)
            else json.dumps(
                {"model": target, "scores": [{**s, "rules": rules[s["benchmark"]]} for s in scores]}
            )
        )
    return Evaluated(target, "f" * 64, f"evaluate/{key}", store.folder("evaluate", key))

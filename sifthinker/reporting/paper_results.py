"""The paper's numbers (SIFThinker, arXiv 2508.06259, AAAI-26), as far as they could be found.

Each names its table and base model. They are shown beside ours; nothing is computed from them. Many cells of the
paper could not be obtained, so a number that is not here may have been published all the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Number:
    """One published result."""

    table: int
    benchmark: str
    metric: str
    model: str  # base model, as the paper names it
    value: float  # of SIFThinker, as printed
    unit: str  # "share" (of 1) or "points" (of 100), as the paper prints it
    baselines: tuple[tuple[str, float], ...] = ()  # same table, same unit
    note: str = ""


LLAVA, BUNNY, QWEN = "LLaVA-1.5-7B", "Bunny-LLaMA3-8B", "Qwen2.5-VL-7B"
_QUOTED_TWICE = "74.5 in one place and 74.6 in another; 74.6 reproduces the quoted gain of 11.17 %"
_BY_CONTEXT = "base model by context, not stated"

NUMBERS = (
    Number(1, "spatialbench", "average", BUNNY, 64.3, "points", (("SpatialBot", 59.6),)),
    Number(1, "spatialbench", "average", QWEN, 74.6, "points", (("SSR", 67.1), ("o3", 74.8)), _QUOTED_TWICE),
    Number(1, "sat", "static", QWEN, 72.8, "points", (("base", 65.5), ("o3", 67.4))),
    Number(1, "cvbench", "average", QWEN, 75.9, "points", (("base", 73.0),)),
    Number(2, "viscot", "average", LLAVA, 0.751, "share", (("VisCoT", 0.672),)),
    Number(2, "viscot", "average", QWEN, 0.760, "share", (("VisRL", 0.698),)),
    Number(2, "vstar", "direct_attributes", QWEN, 0.791, "share", (("SEAL", 0.748),), _BY_CONTEXT),
    Number(2, "vstar", "relative_position", QWEN, 0.776, "share", (("SEAL", 0.763),), _BY_CONTEXT),
    Number(4, "mmbench", "test", LLAVA, 69.3, "points", (("base", 66.5),)),
    Number(4, "mmbench", "test", BUNNY, 76.8, "points", (("base", 73.7),)),
    Number(4, "mmbench", "test", QWEN, 83.4, "points", (("base", 80.3),)),
    # The ablation's full run; its number equals Table 2's, that it is the same mean is not stated.
    Number(5, "ablation", "viscot average", QWEN, 0.760, "share", (("VQA-SFT", 0.536), ("CoT-SFT", 0.582))),
)


def published(benchmark: str, metric: str) -> list[Number]:
    """The paper's numbers of a benchmark's metric, one a base model; empty where none could be found."""
    return [n for n in NUMBERS if (n.benchmark, n.metric) == (benchmark, metric)]


def of_100(number: Number) -> dict[str, Any]:
    """A number as pages show it: shares of 100, points as they are."""
    factor = 100 if number.unit == "share" else 1
    return {
        "model": number.model,
        "table": number.table,
        "value": number.value * factor,
        "baselines": [(name, value * factor) for name, value in number.baselines],
        "note": number.note,
    }

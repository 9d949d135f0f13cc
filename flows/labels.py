"""The names of the stages of a reproduction. Importing them imports no Prefect: `sif run --help` lists them."""

from __future__ import annotations

from typing import Literal, get_args

# The stages of `flows.reproduce.reproduction`, in its order, by the names that partial reruns use; a test compares the two.
Label = Literal[
    "scenes",
    "depth-weights",
    "policy-weights",
    "ingest",
    "expand",
    "depth",
    "annotate",
    "retry",
    "publish",
    "subset",
    "sft",
    "merge-sft",
    "grpo",
    "merge-grpo",
    "evaluate",
    "evaluate-base",
    "evaluate-sft",
    "report",
]

LABELS: tuple[str, ...] = get_args(Label)

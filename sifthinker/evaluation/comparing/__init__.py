"""`sif compare`: evaluations of runs, checkpoints or nights side by side."""

from sifthinker.evaluation.comparing.page import markdown, rows, write
from sifthinker.evaluation.comparing.paired import compare
from sifthinker.evaluation.comparing.sides import Side, find

__all__ = ["Side", "compare", "find", "markdown", "rows", "write"]

"""Which of the two published definitions a reward follows where paper and release differ."""

from typing import Literal

Variant = Literal["paper", "release"]

"""The training programs: SFT, GRPO-SIF, merging, scoring, and their checks before a run."""

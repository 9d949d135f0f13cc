"""Scores: benchmarks, statistics, the nightly gate, the ablation."""

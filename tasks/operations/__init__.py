"""Tasks that are not stages: asking, nights, checks, pruning, lineage."""

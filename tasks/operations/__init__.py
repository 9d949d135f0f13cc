"""Tasks that are not stages: questions, nights, checks, pruning."""

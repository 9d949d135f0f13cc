"""Looking after an installation: the checks of `sif doctor`, and pruning the store."""

"""The `sif` command."""

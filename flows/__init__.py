"""The flows of the project, and the `sif` command that starts them."""

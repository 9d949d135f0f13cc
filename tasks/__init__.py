"""Prefect tasks: the stages of the pipeline, the machinery that runs them, and other operations."""

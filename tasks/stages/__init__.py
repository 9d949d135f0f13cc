"""The nodes of the DAG, a file a stage."""

"""From annotation files to a published data set: sources, ingest, expansion, depth estimation, publish, export."""

"""Artifacts by key: index, content, digests, locks, aliases, lineage; on a disk or on S3."""

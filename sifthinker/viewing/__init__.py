"""A page to look through a data set and its rejects (`sif view`)."""

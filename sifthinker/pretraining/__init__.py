"""The programs that made the bundled miniature. No run of the pipeline uses them."""

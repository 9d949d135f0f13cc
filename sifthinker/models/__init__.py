"""Base models: families, loading, processors, serving, toys, and the bundled miniature."""

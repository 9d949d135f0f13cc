"""What makes a function a stage: identity, cache, placement, programs, what the UI shows."""

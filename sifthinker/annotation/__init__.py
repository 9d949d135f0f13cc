"""Chains of thought written by a model: asking, accepting or rejecting a reply, asking again, what it will cost."""

"""The miniature: small models of the real architectures, to be trained from scratch on rendered scenes.

They are to stand in for the pre-trained weights that a real reproduction starts from. `build.py` makes both as they
begin, `python -m sifthinker.training.pretrain` trains them. No trained weights are kept here yet.
"""

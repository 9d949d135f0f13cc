"""The miniature: small models of the real architectures that were trained from scratch on rendered scenes.

    policy/   Qwen2.5-VL: knows the colours, shapes, boxes and depths of the scenes, not chains
    depth/    Depth Anything V2
    build.py  both as they begin, random: their sizes, and the policy's tokenizer

They stand in for the pre-trained weights that a real reproduction starts from (`weights: miniature`). The folders
hold a model card each; `python -m sifthinker.training.pretrain` makes them.
"""

from pathlib import Path

POLICY = Path(__file__).parent / "policy"
DEPTH = Path(__file__).parent / "depth"

"""Rendered scenes with exact boxes and depth, in the file formats of the real data sets: input that is always at hand.

layout.py     where solids stand, and the exact box, depth and visible share of each
render.py     the ray caster
questions.py  what can be asked about a scene with one right answer
files.py      the folder: VisCoT, TallyQA, V*Bench, RefCOCO and SpatialBench files
"""

from sifthinker.scenes.files import benchmarks, jpeg, sources, stream, write

__all__ = ["benchmarks", "jpeg", "sources", "stream", "write"]

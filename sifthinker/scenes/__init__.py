"""Rendered scenes with exact boxes and depth, in the file formats of the real data sets: input that is always at hand.

layout.py     where solids stand, and the exact box, depth and visible share of each
render.py     the ray caster
questions.py  what can be asked about a scene with one right answer
files.py      the whole folder that `sif scenes` writes
folder.py     random streams, pictures, and the record of what each shows
boxed_questions.py, vstar.py, refcoco.py, spatialbench.py    a writer for each format
"""

from sifthinker.scenes.files import benchmarks, sources, write
from sifthinker.scenes.folder import jpeg, stream

__all__ = ["benchmarks", "jpeg", "sources", "stream", "write"]

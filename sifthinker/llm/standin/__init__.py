"""A stand-in for the annotator and the judge: an HTTP server that speaks their protocol. It is no model.

`python -m sifthinker.llm.standin --port 0 --port-file F` serves chat completions, the Batch API and an online batch
path, close enough for the official client. It writes chains from the regions in the prompt with the answer
that the prompt gives, and scores answers by the similarity of the letters. Equal requests get equal replies in
any order, and every reply names a model that begins with "standin".

It can be told to fail (`--fault KIND=RATE`, kinds in `FAULTS`), to be slow, and to keep a quota, and it counts
what it was asked (`counts`), so that a test can hold a client to it.
"""

from sifthinker.llm.standin.faults import FAULTS
from sifthinker.llm.standin.replies import CONTENT
from sifthinker.llm.standin.starting import counts, running

__all__ = ["CONTENT", "FAULTS", "counts", "running"]

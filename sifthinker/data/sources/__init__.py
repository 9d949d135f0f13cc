"""The annotation formats that can be ingested. A new one is a file here, a line below, and a test.

`SOURCES[format](path, images, config) -> Iterator[Sample | Reject]` opens the image of every row;
`READERS[format]` gives the rows with their images unopened, for `ingest` to choose from.
"""

from sifthinker.data.sources import tallyqa, viscot

SOURCES = {"viscot": viscot.load, "tallyqa": tallyqa.load}
READERS = {"viscot": viscot.read, "tallyqa": tallyqa.read}

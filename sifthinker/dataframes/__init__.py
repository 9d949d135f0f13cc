"""What a store holds, as pandas DataFrames: `Results` is the one door to this room (README.md has an example)."""

from sifthinker.dataframes.results import Results

__all__ = ["Results"]

"""What it costs a shard to open its inputs, by the number of shards: it must not grow with it.

    python -m tests.benchmarks.store_shards --shards 50 100 200 500

Three inputs, made of as many shards of one small file each. Every shard is looked up, its own part of the inputs is
opened and verified, and it is sealed, all in one process, as threads of a flow do it. Processor time and time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path

import pyarrow as pa

from sifthinker.core.tables import write
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Ref
from sifthinker.store.verification import verifier

SCHEMA = pa.schema([("n", pa.int64())])


def sealed(store: Store, stage: str, key: str, inputs: dict[str, Ref], shards: tuple[Ref, ...] = ()) -> Ref:
    """A small artifact, made and found."""
    with store.making(stage, key, {"inputs": {n: ref.model_dump() for n, ref in inputs.items()}}) as draft:
        if not shards:
            write(draft.out / "rows.parquet", SCHEMA, [{"n": 1}])
        draft.shards = list(shards)
    found = store.find(stage, key)
    assert found
    return found.ref


def measured(root: Path, count: int) -> tuple[float, float]:
    """Seconds of processor and of the clock for opening the inputs of all shards, in a process that saw none before."""
    store = Store(root)
    inputs = {}
    for stage in ("one", "two", "three"):
        parts = tuple(sealed(store, f"{stage}.parts", f"{part:020x}", {}) for part in range(count))
        inputs[stage] = sealed(store, stage, "a" * 20, {}, parts)
    verifier.cache_clear()
    store = Store(root)
    spent, started = time.process_time(), time.perf_counter()
    for part in range(count):
        assert store.find("four.parts", f"{part:020x}") is None
        for ref in inputs.values():
            assert store.open(ref, part).part("rows", part).is_file()
    return time.process_time() - spent, time.perf_counter() - started


def main() -> None:
    """Prints a line a size."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--shards", type=int, nargs="+", default=[50, 100, 200, 500])
    print("| shards | ms of processor a shard | ms a shard | s in all |\n|---|---|---|---|")
    for count in arguments.parse_args().shards:
        with tempfile.TemporaryDirectory() as folder:
            spent, took = measured(Path(folder), count)
        print(
            f"| {count} | {1000 * spent / count:.2f} | {1000 * took / count:.2f} | {took:.2f} |", flush=True
        )


if __name__ == "__main__":
    main()

"""`Job.keep`: rows into the parts of a table."""

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sifthinker.core.records import Reject
from tasks.runtime.stage import Job

SCHEMA = pa.schema([("id", pa.string()), ("part", pa.int64())])


@pytest.mark.parametrize("part_by_part", [False, True])
def test_every_row_is_in_its_part_or_among_the_rejects(tmp_path, part_by_part):
    draft = SimpleNamespace(out=tmp_path, rows=None)
    done = []
    job = Job(None, None, {}, draft, {}, None, SimpleNamespace(add=done.append))
    rows = [{"id": f"{part}/{i}", "part": part} for part in (0, 1, 2) for i in range(5)]
    rows.insert(7, Reject("publish", "depth-missing", "", "x"))

    job.keep("t", SCHEMA, rows, lambda row: row["part"], 3, batch=4, part_by_part=part_by_part)
    assert draft.rows == {"in": 16, "kept": 15, "rejected": {"depth-missing": 1}}
    assert len(done) == 16
    for part in range(3):
        table = pq.read_table(tmp_path / f"t-{part:05}.parquet")
        assert table["id"].to_pylist() == [f"{part}/{i}" for i in range(5)]
    assert pq.read_table(tmp_path / "rejects.parquet").num_rows == 1


def test_a_part_that_is_done_is_a_complete_file_and_holds_nothing_in_memory(tmp_path):
    job = Job(None, None, {}, SimpleNamespace(out=tmp_path), {}, None, SimpleNamespace(add=lambda _: None))
    held = {}

    def rows():
        for part in range(3):
            for i in range(5):
                yield {"id": f"{part}/{i}", "part": part}
            held[part] = [pq.read_table(tmp_path / f"t-{done:05}.parquet").num_rows for done in range(part)]

    job.keep("t", SCHEMA, rows(), lambda row: row["part"], 3, batch=100, part_by_part=True)
    assert held == {0: [], 1: [5], 2: [5, 5]}


def test_a_row_for_a_part_that_is_done_is_an_error_and_no_lost_row(tmp_path):
    job = Job(None, None, {}, SimpleNamespace(out=tmp_path), {}, None, SimpleNamespace(add=lambda _: None))
    rows = [{"id": str(number), "part": part} for number, part in enumerate((0, 1, 0))]
    with pytest.raises(ValueError, match="a part that was done"):
        job.keep("t", SCHEMA, rows, lambda row: row["part"], 2, part_by_part=True)

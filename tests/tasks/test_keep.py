"""`Job.keep` and `Job.count`: every row is written or among the rejects, and counted."""

from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from sifthinker.core.records import Reject
from tasks.runtime.stage import Job

SCHEMA = pa.schema([("id", pa.string())])
LOST = Reject("publish", "depth-missing", "", "x")


@pytest.fixture
def job(tmp_path):
    done = []
    draft = SimpleNamespace(out=tmp_path, rows=None)
    return Job(None, None, {}, draft, {}, None, SimpleNamespace(add=done.append, done=done))


def test_every_row_is_in_the_table_or_among_the_rejects(job, tmp_path):
    rows = [{"id": str(number)} for number in range(5)]
    job.keep("t", SCHEMA, [*rows[:3], LOST, *rows[3:]], batch=2)
    assert job.draft.rows == {"in": 6, "kept": 5, "rejected": {"depth-missing": 1}}
    assert sum(job.progress.done) == 6
    assert pq.read_table(tmp_path / "t.parquet")["id"].to_pylist() == ["0", "1", "2", "3", "4"]
    assert pq.read_table(tmp_path / "rejects.parquet").num_rows == 1


def test_rows_that_are_written_elsewhere_are_counted(job, tmp_path):
    job.count([LOST, 4, LOST, 3])
    assert job.draft.rows == {"in": 9, "kept": 7, "rejected": {"depth-missing": 2}}
    assert sum(job.progress.done) == 9
    job.count([LOST, 4], shown=False)
    assert sum(job.progress.done) == 9


def test_the_files_of_parts_lie_in_their_folder(job, tmp_path):
    assert job.parts("t", 2, "data") == [
        tmp_path / "data" / "t-00000.parquet",
        tmp_path / "data" / "t-00001.parquet",
    ]
    assert (tmp_path / "data").is_dir()

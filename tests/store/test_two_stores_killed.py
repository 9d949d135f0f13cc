"""Two machines with one bucket, both killed again and again: the same digests, nothing half, nothing lost."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sifthinker.store import s3
from sifthinker.store.artifacts import Store
from sifthinker.upkeep import prune_remote

pytestmark = pytest.mark.slow
COUNT = 30  # artifacts
KILLS = 20
PROGRAM = """
import sys, time
from pathlib import Path
from sifthinker.store.artifacts import Store
from sifthinker.store.manifest import Damaged
from sifthinker.store import remote_lock

remote_lock.POLL, remote_lock.BEAT, remote_lock.EXPIRY = 0.2, 0.3, 2.0
store = Store(Path(sys.argv[1]), sys.argv[2])
store.push_pending()
for number in range(int(sys.argv[3])):
    key = f"k{number:02}"
    with store.lock("s", key) as lock:
        try:
            if store.find("s", key):
                continue
        except Damaged as damage:
            print("again:", damage, flush=True)
        with store.making("s", key, {}, lock.check) as draft:
            for part in range(3):
                (draft.out / f"part-{part}").write_bytes(bytes([number, part]) * 50_000)
                time.sleep(0.01)
print("done", flush=True)
"""


def started(folder: Path, url: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, str(folder), url, str(COUNT)]
    env = {**os.environ, "SIF_CACHE": str(folder / "cache")}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def test_two_machines_killed_at_random_moments_make_everything_once_and_whole(
    bucket: str, tmp_path: Path
) -> None:
    drawn, folders = random.Random(0), [tmp_path / "a", tmp_path / "b"]
    alone = Store(tmp_path / "alone")
    for number in range(COUNT):
        with alone.making("s", f"k{number:02}", {}) as draft:
            for part in range(3):
                (draft.out / f"part-{part}").write_bytes(bytes([number, part]) * 50_000)
    killed = 0
    running = [started(folder, bucket) for folder in folders]
    while killed < KILLS:
        time.sleep(drawn.uniform(0.6, 2.0))
        at = drawn.randrange(2)
        if running[at].poll() is not None:
            break
        running[at].kill()
        running[at].wait()
        killed += 1
        running[at] = started(folders[at], bucket)
    for program in running:
        said, _ = program.communicate(timeout=300)
        assert program.returncode == 0 and said.endswith("done\n"), said
    assert killed >= KILLS // 2, "it ended before it was killed often enough"
    expected = {m["key"]: m["digest"] for m in alone.manifests("s")}
    remote = s3.Remote(bucket)
    uploads = prune_remote.uploads(Store(tmp_path / "third", bucket))
    assert {key for (_, key), upload in uploads.items() if upload.manifest} == set(expected)
    assert not [key for (_, key), upload in uploads.items() if not upload.manifest], "nothing half, no lock"
    third = Store(tmp_path / "third")
    for key, digest in expected.items():
        assert remote.manifest(f"s/{key}")[1] == ""
        found = third.find("s", key)
        assert found and found.ref.digest == digest
        assert (found.folder / "part-1").is_file(), "it downloads, and is whole"
    for folder in folders:
        left = [path.name for path in (folder / "s").iterdir() if path.is_dir() and "." in path.name]
        assert not left, "no temporary and no discarded folder is left"
        assert not list((folder / "s").glob("*.pending")), "no upload is due"

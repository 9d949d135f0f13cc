"""The lock of an artifact: on this machine, and where its store has a remote, on all."""

from __future__ import annotations

from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from sifthinker.store.s3 import RemoteLock


class Lock:
    def __init__(self, path: Path, remote: RemoteLock | None) -> None:
        self.lock_file = path
        self._local, self._remote = FileLock(path), remote

    def acquire(self, timeout: float = -1) -> None:
        """Waits for it; with a timeout of 0 it does not.

        Raises:
            Timeout: somebody else has it.
        """
        self._local.acquire(timeout=timeout)
        if self._remote is None:
            return
        try:
            if timeout < 0:
                self._remote.wait()
            elif not self._remote.take():
                raise Timeout(str(self.lock_file))
        except BaseException:
            self._local.release()
            raise

    def release(self) -> None:
        try:
            if self._remote:
                self._remote.release()
        finally:
            self._local.release()

    def __enter__(self) -> Lock:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()

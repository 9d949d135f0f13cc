"""The lock of an artifact: on this machine, and where its store has a remote, on all."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from sifthinker.store.remote_lock import RemoteLock


class Lock:
    """Held by whoever makes an artifact. `with lock:` waits for it."""

    def __init__(self, path: Path, remote: RemoteLock | None) -> None:
        """Takes nothing yet.

        Args:
            path: of the lock file on this machine.
            remote: the lock that other machines see.
        """
        self.lock_file = path
        self._local, self._remote = FileLock(path), remote

    def acquire(self, timeout: float = -1) -> None:
        """Waits for the lock. With a timeout of 0 it does not wait.

        Raises:
            Timeout: somebody else has the lock.
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

    def check(self, strict: bool = True) -> None:
        """Whether it is still held, on all machines.

        Args:
            strict: something is about to be published: it must be held for certain. Else it must not be known to be lost.

        Raises:
            UserError: another machine has, or strictly may have, taken it over.
        """
        if self._remote:
            self._remote.check(strict)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """Holds the lock in a block, without waiting for it.

        Raises:
            Timeout: somebody else has the lock.
        """
        self.acquire(timeout=0)
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Gives the lock back."""
        try:
            if self._remote:
                self._remote.release()
        finally:
            self._local.release()

    def __enter__(self) -> Lock:
        """Waits for the lock."""
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Gives the lock back."""
        self.release()

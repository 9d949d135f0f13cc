"""Artifacts of this machine that are still to be uploaded, and word of them: `<root>/<stage>/<key>.pending`.

The word has the digest of the artifact and that of the remote's copy which it replaces, as it was when the making began. So a
later run tells apart what it finds on the remote: nothing or that very copy means that the upload is still due; anything else was
made by another machine since, and stays.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from sifthinker.store.s3 import Remote
from sifthinker.system.files import read_json, write_json

SUFFIX = ".pending"


class Uploads:
    """The uploads of a store. Without a remote there are none."""

    def __init__(self, root: Path, remote: Remote | None) -> None:
        """Looks at nothing yet."""
        self.root, self.remote = root, remote

    def there(self, stage: str, key: str) -> str | None:
        """The digest of the remote's copy of an artifact; None where there is none that is whole."""
        found = self.remote.manifest(f"{stage}/{key}")[0] if self.remote else None
        return found["digest"] if found else None

    def note(self, stage: str, key: str, digest: str, replaces: str | None) -> None:
        """Leaves word that the upload of an artifact is due.

        Args:
            stage: of the artifact.
            key: of the artifact.
            digest: of the artifact.
            replaces: the digest of the remote's copy.
        """
        if self.remote:
            said = {"since": time.time(), "digest": digest, "replaces": replaces}
            write_json(self._word(stage, key), said)

    def noted(self) -> Iterator[tuple[str, str]]:
        """Stage and key of the artifacts that there is word of."""
        for path in sorted(self.root.glob(f"*/*{SUFFIX}")) if self.remote else ():
            yield path.parent.name, path.stem

    def forget(self, stage: str, key: str) -> None:
        """Removes the word: the upload is done, or not wanted any more."""
        self._word(stage, key).unlink(missing_ok=True)

    def is_due(self, stage: str, key: str, here: str) -> bool:
        """Whether an artifact of which there is word has to be uploaded.

        Args:
            stage: of the artifact.
            key: of the artifact.
            here: the digest of this machine's copy; "" where it is damaged. It is another one where a run was killed before the
                new artifact had its name.
        """
        said = self._said(stage, key)
        there = self.there(stage, key)
        if "digest" not in said:  # word of an earlier version
            return bool(here) and there is None
        return here == said["digest"] and there in (None, said["replaces"])

    def replaces(self, stage: str, key: str, digest: str) -> bool:
        """Whether this machine's artifact is to replace a copy of the remote's that has this digest."""
        return self._said(stage, key).get("replaces") == digest

    def push(self, stage: str, key: str) -> None:
        """Uploads an artifact, if there is where to, and notes that this is done.

        Raises:
            UserError: the remote does not take it.
        """
        if self.remote:
            self.remote.push(self.root / stage / key, f"{stage}/{key}")
            self.forget(stage, key)

    def _word(self, stage: str, key: str) -> Path:
        return self.root / stage / f"{key}{SUFFIX}"

    def _said(self, stage: str, key: str) -> dict[str, Any]:
        return read_json(self._word(stage, key))

"""Weights from the Hugging Face hub, or from its cache on this machine; nothing here loads torch.

What is whole in the cache is taken from there, by hard links where the disk is the same: nothing is fetched twice, and a machine
without a network runs with what `sif data --get` or another tool left there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

from sifthinker.core.errors import UserError
from sifthinker.models import folders
from sifthinker.models.published import PATTERNS


def cached(weights: str, revision: str | None) -> Path | None:
    """The whole snapshot of a repository in the cache; None where there is none."""
    try:
        from huggingface_hub import snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError
    except ImportError:  # a machine without the extra `train`
        return None
    try:
        folder = Path(
            snapshot_download(
                weights, revision=revision, allow_patterns=list(PATTERNS), local_files_only=True
            )
        )
        folders.check_weights(folder)
    except (LocalEntryNotFoundError, UserError, OSError):  # not there, or not whole
        return None
    return folder if (folder / "config.json").is_file() else None


def download(weights: str, revision: str | None, out: Path) -> str:
    """Puts the weights, configuration and tokenizer of a repository into a folder; returns the commit.

    Raises:
        UserError: the hub cannot be reached or refuses, and the cache does not have them.
    """
    from huggingface_hub import HfApi, snapshot_download

    try:
        try:
            commit = str(HfApi().model_info(weights, revision=revision).sha)
        except Exception:  # offline, say: what is here will do
            if (found := cached(weights, revision)) is None:
                raise
            _link(found, out)
            return found.name
        if (found := cached(weights, commit)) is not None:
            _link(found, out)
        else:
            snapshot_download(weights, revision=commit, local_dir=out, allow_patterns=list(PATTERNS))
            shutil.rmtree(
                out / ".cache"
            )  # its notes of the download have times; the weights are those of the commit
    except Exception as error:  # the hub client raises many kinds, and all mean "not to be had"
        raise UserError(
            f"{weights} (revision {revision or 'main'}): cannot be downloaded from the model hub: {error}. "
            "Offline? Give a local folder, 'miniature' for the small trained model, or 'tiny' for a random toy, as "
            "model.weights or depth.weights."
        ) from error
    return commit


def _link(snapshot: Path, out: Path) -> None:
    """The files of a snapshot, which are links into the cache, as files of their own in `out`."""
    for path in snapshot.rglob("*"):
        if not path.is_file() or not any(path.match(pattern) for pattern in PATTERNS):
            continue
        new = out / path.relative_to(snapshot)
        new.parent.mkdir(parents=True, exist_ok=True)
        new.unlink(missing_ok=True)
        try:
            new.hardlink_to(path.resolve())
        except OSError:  # another disk
            shutil.copyfile(path, new)

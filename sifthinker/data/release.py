"""SIF-50K given away: as a plain folder that other software reads, and on the hub (`sif push`).

    <out>/README.md                  the card: what `load_dataset` is to read, licence, schema, statistics, limits
    <out>/data/sif-00000.parquet     the rows
    <out>/rl/sif-rl-00000.parquet    the subset for GRPO, where there is one: `load_dataset(..., "rl")`
    <out>/statistics.json            what the card's tables are made from

The folder is made from any artifact of `publish`: the Parquet files of an older one are written anew with today's
features. Rejects stay in the store: they name files of this machine.
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from sifthinker.core.errors import UserError
from sifthinker.data import card
from sifthinker.data.features import PUBLISHED
from sifthinker.system.files import write_json
from sifthinker.system.new_folders import new_folder

TOKEN = "HF_TOKEN"  # environment variable, and the only place that a token is read from
RL_PARTS = "rl/sif-rl-*.parquet"


def write_folder(parts: Sequence[Path], rl: Path | None, facts: card.Facts, out: Path) -> int:
    """Writes the new folder `out`, which appears under its name when it is complete.

    Args:
        parts: of the whole data set.
        rl: the RL subset, if there is one.
        facts: for the card; its `files` are set here.
        out: the folder.

    Returns:
        number of rows.

    Raises:
        UserError: `out` exists and is not an empty folder, or a file is not a SIF-50K file.
    """
    files = {"default": card.PARTS}
    with new_folder(out) as partial:
        (partial / "data").mkdir()
        rows = sum(_part(part, partial / "data" / f"sif-{i:05}.parquet") for i, part in enumerate(parts))
        if rl:
            (partial / "rl").mkdir()
            _part(rl, partial / "rl" / "sif-rl-00000.parquet")
            files["rl"] = RL_PARTS
        write_json(partial / "statistics.json", facts.statistics)
        described = card.text(dataclasses.replace(facts, files=files))
        (partial / card.FILE).write_text(described, encoding="utf-8")
    return rows


def _part(source: Path, to: Path) -> int:
    """One Parquet file with today's features: linked if it has them, else copied row group by row group."""
    with pq.ParquetFile(source) as file:
        schema = file.schema_arrow
        if missing := [name for name in PUBLISHED.names if name not in schema.names]:
            raise UserError(f"{source}: not a SIF-50K file, it lacks the columns {', '.join(missing)}")
        rows = int(file.metadata.num_rows)
        if schema.equals(PUBLISHED, check_metadata=True):
            try:
                os.link(source, to)
            except OSError:  # on another disk
                shutil.copyfile(source, to)
            return rows
        with pq.ParquetWriter(to, PUBLISHED, compression="zstd") as writer:
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=PUBLISHED.names)
                writer.write_table(table.replace_schema_metadata(PUBLISHED.metadata))
    return rows


def push(folder: Path, repository: str, public: bool, say: Callable[[str], None]) -> str:
    """Uploads a folder of `write_folder` as a data set of the hub; returns its address.

    One commit holds everything, so that the repository never shows half of it. An upload that was cut short is resumed by
    calling this again: the hub has the files that arrived and takes only the others.

    Args:
        folder: with a card that names a licence.
        repository: "owner/name"; it is made where there is none.
        public: whether everybody may see it; a public repository is not written without.
        say: is told what is done.

    Raises:
        UserError: there is no card, licence or token, the repository is public, or the hub refuses or cannot be reached.
    """
    if not card.read_head(folder).get("license"):
        raise UserError(
            f"{folder / card.FILE}: names no licence: set `sources[].licence` in the configuration, or give --licence ID"
        )
    token = os.environ.get(TOKEN)
    if not token:
        raise UserError(
            f"{TOKEN} is not set: put a token with write access to {repository} into the environment"
        )
    import httpx
    from huggingface_hub import CommitOperationAdd, HfApi, constants
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, OfflineModeIsEnabled

    api = HfApi(token=token)
    kind: dict[str, Any] = {"repo_id": repository, "repo_type": "dataset"}
    try:
        there = api.repo_exists(**kind)
        if there and not public and api.repo_info(**kind).private is False:
            raise UserError(
                f"{repository}: is public already; give --public to write it, or name another one"
            )
        if not there:
            api.create_repo(**kind, private=not public)
            say(f"{repository}: made, {'public' if public else 'private'}")
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        operations = [CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
        api.create_commit(**kind, operations=operations, commit_message="SIF-50K, reproduced")
    except OfflineModeIsEnabled as error:
        raise UserError("HF_HUB_OFFLINE is set: unset it to push") from error
    except HFValidationError as error:
        raise UserError(f"--to {repository}: {error}") from error
    except HfHubHTTPError as error:
        raise UserError(f"{repository}: {_refused(error)}") from error
    except (
        httpx.HTTPError,
        OSError,
        RuntimeError,
    ) as error:  # the client's own wrapper of either is a RuntimeError
        why = type(error.__cause__ or error).__name__
        raise UserError(
            f"{constants.ENDPOINT}: the upload was cut short ({why}); the same command resumes it"
        ) from error
    return f"{constants.ENDPOINT}/datasets/{repository}"


def _refused(error: Any) -> str:
    status = error.response.status_code if error.response is not None else None
    said = str(error.server_message or error).strip().splitlines()[0]
    if status in (401, 403):
        return f"the hub refuses the token of {TOKEN} ({status}: {said}); it needs write access"
    if status and status >= 500:
        return f"the hub failed ({status}: {said}); the same command resumes the upload"
    return f"the hub refused the upload ({status}: {said})"

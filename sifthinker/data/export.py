"""Export: SIF-50K in the files of the authors' release, so that their tools read it (PAPER.md F2.4).

    <out>/SIF-50K.json               all rows: LLaMA-Factory's SFT
    <out>/SIF-50K-sampled-200.json   the RL subset, whatever its size: the name that GRPO-SIF's scripts look for
    <out>/images/<data set>/         photographs, and beside each its Spectral_r depth picture, <stem>_d.png
    <out>/dataset_info.json          LLaMA-Factory's entry, to be used with `dataset_dir: <out>`

One record:

    {"dataset": "gqa", "image": "images/gqa/2316539-1f0c….jpg", "depth_image": "images/gqa/2316539-1f0c…_d.png",
     "problem": "{Q}", "normalized_solution_round": {"bbox_3d": [[0.542, 0.686, 0.592, 0.786]],
     "illegal_content": false}, "response": "window", "messages": [{"content": …, "role": "user"},
     {"content": "<think>…", "role": "assistant"}], "images": [the same two paths]}

Paths are relative to `out`: GRPO-SIF takes them with `--image_folders <out>`, LLaMA-Factory with `dataset_dir`, ms-swift
with ROOT_IMAGE_DIR=<out>. `absolute` writes whole paths, for tools that know no such option; the folder cannot move then.
Boxes are in 0..1 of the image itself, three decimals, with an area (the release's of VisCoT are not, PAPER.md R2.1).

`response` is text in SIF-50K.json: Arrow, which LLaMA-Factory reads it with, wants one type a column. In the RL file, which
is read as plain JSON, a count is a number, as in the release.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from sifthinker.core.prompts import policy_messages
from sifthinker.data import publish
from sifthinker.data.expansion import rounded
from sifthinker.system.new_folders import new_folder

logger = logging.getLogger(__name__)

SFT_FILE = "SIF-50K.json"
RL_FILE = "SIF-50K-sampled-200.json"
DATASET_INFO = {
    "SIF-50K": {
        "file_name": SFT_FILE,
        "formatting": "sharegpt",
        "columns": {"messages": "messages", "images": "images"},
        "tags": {
            "role_tag": "role",
            "content_tag": "content",
            "user_tag": "user",
            "assistant_tag": "assistant",
        },
    }
}
_PLACEHOLDER = re.compile(r"<(image|video|audio)>")  # LLaMA-Factory counts these in every turn


def export(parts: Sequence[Path], rl: Path | None, out: Path, absolute: bool = False) -> dict[str, int]:
    """Writes the release's files of the `SIF` files `parts` into the new folder `out`.

    Rows are streamed; the folder appears under its name when it is complete. A row whose own text holds an image
    place-holder would be read with the wrong number of images: it is left out, with a warning logged.

    Args:
        parts: of the whole data set.
        rl: the RL subset; None: its file is not written.
        out: the folder, which is made.
        absolute: paths of pictures begin at the root of this machine's files.

    Returns:
        number of records written, by file name.

    Raises:
        UserError: `out` exists and is not an empty folder, or a file is not a SIF-50K file.
    """
    with new_folder(out) as partial:
        written = {}
        root = out.resolve() if absolute else Path()
        for name, files in {SFT_FILE: parts, **({RL_FILE: [rl]} if rl else {})}.items():
            rows = filter(_is_portable, publish.read(files))
            records = (_record(row, partial, root, counts=name == RL_FILE) for row in rows)
            written[name] = _write_json(partial / name, records)
        (partial / "dataset_info.json").write_text(
            json.dumps(DATASET_INFO, indent=2) + "\n", encoding="utf-8"
        )
    return written


def messages(question: str, chain: str) -> list[dict[str, str]]:
    """The turns of `prompts.policy_messages` in LLaMA-Factory's form: one text a turn, `<image>` where one goes."""
    return [
        {
            "content": "".join(
                "<image>" if part["type"] == "image" else part["text"] for part in turn["content"]
            ),
            "role": turn["role"],
        }
        for turn in policy_messages(question, depth_input=True, think=True, chain=chain)
    ]


def _is_portable(row: dict[str, Any]) -> bool:
    found = _PLACEHOLDER.search(f"{row['question']} {row['chain']}")
    if found:
        logger.warning("export leaves out %s: its text holds the place-holder %s", row["id"], found.group())
    return found is None


def _record(row: dict[str, Any], out: Path, root: Path, counts: bool) -> dict[str, Any]:
    """The release's record of a row; writes its two pictures under `out` if another row has not yet.

    Args:
        row: of `SIF`.
        out: folder of the export.
        root: what the paths begin with.
        counts: whether an answer that is a count becomes a number.
    """
    photo, picture = row["image"]["bytes"], row["depth_image"]["bytes"]
    name = Path(row["image"]["path"])
    stem = f"{_safe(name.stem)}-{hashlib.sha256(photo).hexdigest()[:16]}"  # equal names in two folders are common
    folder = Path("images", _safe(row["dataset"]))
    suffix = re.sub(r"[^.a-z0-9]", "", name.suffix.lower())
    paths = [folder / f"{stem}{suffix}", folder / f"{stem}_d.png"]
    (out / folder).mkdir(parents=True, exist_ok=True)
    for path, data in zip(paths, (photo, picture), strict=True):
        if not (out / path).exists():
            (out / path).write_bytes(data)
    image, depth_image = ((root / path).as_posix() for path in paths)
    answer = row["answer"]
    counted = counts and re.fullmatch(
        r"0|[1-9][0-9]{0,8}", answer
    )  # TallyQA's answers are numbers in the release
    return {
        "dataset": row["dataset"],
        "image": image,
        "depth_image": depth_image,
        "problem": row["question"],
        "normalized_solution_round": {
            "bbox_3d": [list(rounded(box)) for box in row["boxes"]],
            "illegal_content": False,
        },
        "response": int(answer) if counted else answer,
        "messages": messages(row["question"], row["chain"]),
        "images": [image, depth_image],
    }


def _write_json(path: Path, records: Iterable[dict[str, Any]]) -> int:
    """Streams records into a JSON array, one a line; returns how many."""
    count = 0
    with path.open("w", encoding="utf-8") as file:
        file.write("[")
        for record in records:
            file.write(f"{',' if count else ''}\n{json.dumps(record, ensure_ascii=False)}")
            count += 1
        file.write("\n]\n")
    return count


def _safe(name: str) -> str:
    """A part of a file name that no shell, archive or web server trips over."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".-")[:80] or "_"

"""`vllm serve` with what a policy needs: one name, two pictures a prompt, the folder's pixel budget and its data type.

    python -m sifthinker.models.vllm_command FOLDER --port 8000

runs it in the place of this program. It needs nothing but Python and the command `vllm`, so the serve image copies this file
alone. `serving` starts the same command for as long as a stage needs it.

The data type is that of the folder's config. vLLM's own choice turns float32 into bfloat16, which is another policy: on
the demo 161 of 192 greedy replies differed. Sampling is neutral, because Qwen's `generation_config` has a repetition
penalty, with which the policy was never trained. That also drops the tokens that the folder suppresses, so requests name
them by `logit_bias`.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

HOST = "127.0.0.1"
DTYPES = ("float32", "bfloat16", "float16")
RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # of LoRA that vLLM has kernels for (its LoRAConfig)

MERGED = "summary.json"  # lies with the files of a merge
UNPREPARED = (
    "{folder}: no merge of this project wrote it (it has no "
    + MERGED
    + "), and vLLM takes the processor as it is: the "
    "publisher's chat template and picture sizes. Stages and `sif serve` put those of the trainings in their place. Merge, or "
    "let evaluate.server: vllm start the server"
)
IMAGES = 2  # of a prompt of the policy: the photograph and its depth


@dataclass(frozen=True)
class Options:
    """What differs between the servers that are started.

    Attributes:
        vllm: The command.
        cpu: It is vLLM's build for processors.
        lora_rank: Of adapters that are loaded at run time; 0: none are.
        memory: Share of a GPU's memory that the server takes; None: vLLM's own, 0.9.
        images: Most pictures of a prompt.
        context: Most tokens of a prompt, its pictures and its reply; None: all that the model takes, for which vLLM wants
            memory at once (6.8 GiB for the 128,000 of Qwen2.5-VL 7B).
    """

    vllm: str = "vllm"
    cpu: bool = False
    lora_rank: int = 0
    memory: float | None = None
    images: int = IMAGES
    context: int | None = None


def command(
    folder: Path, port: int, name: str, options: Options | None = None, host: str = HOST
) -> list[str]:
    """The command line that serves a folder under `name`.

    Raises:
        ValueError: vLLM takes no adapters of that rank.
    """
    of = options or Options()
    line = [of.vllm, "serve", str(folder), "--host", host, "--port", str(port), "--served-model-name", name]
    line += ["--limit-mm-per-prompt", json.dumps({"image": of.images, "video": 0})]
    line += ["--generation-config", "vllm", "--seed", "0", "--dtype", dtype(folder)]
    size = _saved_size(folder)
    if "longest_edge" in size:  # a pixel budget, of a Qwen family
        line += ["--mm-processor-kwargs", json.dumps({"size": size})]
    if of.memory is not None and not of.cpu:
        line += ["--gpu-memory-utilization", str(of.memory)]
    if of.context is not None:
        line += ["--max-model-len", str(of.context)]
    if of.lora_rank:
        # Two in memory: a new adapter is loaded before the old one is forgotten. The log-probabilities are those of
        # what was sampled from: after the temperature and the suppressed tokens.
        line += ["--enable-lora", "--max-lora-rank", str(_rank(of.lora_rank))]
        line += ["--max-loras", "1", "--max-cpu-loras", "2", "--logprobs-mode", "processed_logprobs"]
    if of.cpu:
        # With them, a sampled request with a seed whose prompt is cut ends the engine ("CPU Generator does not use offset").
        line += ["--no-enable-chunked-prefill"]
    return line


def environment(of: Mapping[str, str], options: Options | None = None) -> dict[str, str]:
    """The environment of the server: that of `of`, offline, quiet, and with what the options need."""
    quiet = {
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "DO_NOT_TRACK": "1",
    }
    if options and options.lora_rank:
        quiet["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "True"
    # On a processor vLLM would take nearly all memory for its cache, in GiB; whoever has set it knows better.
    return {"VLLM_CPU_KVCACHE_SPACE": "1", **of, **quiet}


def dtype(folder: Path) -> str:
    """The data type of a folder's weights, as its config names it; "auto" where it names none."""
    config = _json(folder / "config.json")
    for part in (config, config.get("text_config") or {}):
        named = str(part.get("dtype") or part.get("torch_dtype") or "").removeprefix("torch.")
        if named in DTYPES:
            return named
    return "auto"


def _rank(wanted: int) -> int:
    """The smallest rank that vLLM has kernels for and that holds the wanted one."""
    for rank in RANKS:
        if rank >= wanted:
            return rank
    raise ValueError(f"vLLM takes adapters of rank {RANKS[-1]} at most, and {wanted} is wanted")


def _saved_size(folder: Path) -> dict[str, int]:
    """The image size of a folder's processor, as saved by this or an earlier transformers."""
    for file in ("processor_config.json", "preprocessor_config.json"):
        if (folder / file).is_file():
            saved = _json(folder / file)
            size = saved.get("image_processor", saved).get("size")
            if isinstance(size, dict):
                return {edge: pixels for edge, pixels in size.items() if pixels is not None}
    return {}


def _json(file: Path) -> dict[str, Any]:
    """The mapping of a JSON file; empty where there is none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}
    return found if isinstance(found, dict) else {}


def main() -> None:
    """Becomes `vllm serve`."""
    own = sys.argv[1 : sys.argv.index("--")] if "--" in sys.argv else sys.argv[1:]
    more = [
        word for word in sys.argv[1 + len(own) :] if word != "--"
    ]  # a second one: of who starts the image for processors
    parser = argparse.ArgumentParser(
        prog="python -m sifthinker.models.vllm_command",
        usage="%(prog)s [options] FOLDER [-- options of vllm serve]",
        description=__doc__.partition("\n")[0],
    )
    parser.add_argument("folder", type=Path, help="merged model with its processor")
    parser.add_argument("--host", default=HOST, help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8000, help="default: %(default)s")
    parser.add_argument(
        "--model-name", default="policy", help="of the model in requests (default: %(default)s)"
    )
    given = parser.parse_args(own)
    if not (given.folder / "config.json").is_file():
        parser.error(f"{given.folder}: there is no config.json: not a model folder")
    if not (given.folder / MERGED).is_file():
        print(UNPREPARED.format(folder=given.folder), file=sys.stderr)
    line = command(given.folder, given.port, given.model_name, host=given.host)
    os.execvpe(line[0], [*line, *more], environment(os.environ))


if __name__ == "__main__":
    main()

"""Where weights are published, by their name on the hub: for `sif data`.

This table decides no result. Weights that are not in it are listed without size and licence.
"""

from sifthinker.core.publications import GB, MB, Part, Publication, Way

# What is fetched of a model's repository: safetensors, configuration and tokenizer; never pickles or code.
PATTERNS = ("*.safetensors", "*.json", "*.txt", "*.jinja", "tokenizer.model", "LICENSE*", "README.md")


def _weights(
    name: str, size: float | None, licence: str, note: str = "", steps: tuple[str, ...] = ()
) -> Publication:
    part = Part("weights, configuration and tokenizer", name, "model", size, PATTERNS, steps=steps)
    return Publication(licence, (Way("hub", (part,)),), note)


PUBLICATIONS: dict[str, Publication] = {
    "Qwen/Qwen2.5-VL-7B-Instruct": _weights("Qwen/Qwen2.5-VL-7B-Instruct", 16.6 * GB, "Apache-2.0"),
    "llava-hf/llava-1.5-7b-hf": _weights(
        "llava-hf/llava-1.5-7b-hf", 14 * GB, "llama2", "the size is not verified"
    ),
    "BAAI/Bunny-Llama-3-8B-V": _weights(
        "BAAI/Bunny-Llama-3-8B-V",
        16.97 * GB,
        "Apache-2.0; Llama 3's terms for its weights",
        "it must be converted once",
        (
            "python -m sifthinker.models.convert_bunny {fetched} FOLDER, then model.weights: FOLDER and model.family: "
            "bunny_llama3",
        ),
    ),
    "depth-anything/Depth-Anything-V2-Large-hf": _weights(
        "depth-anything/Depth-Anything-V2-Large-hf", 1.34 * GB, "CC-BY-NC-4.0", "what the release's vitl is"
    ),
    "depth-anything/Depth-Anything-V2-Small-hf": _weights(
        "depth-anything/Depth-Anything-V2-Small-hf", 99 * MB, "Apache-2.0"
    ),
}


def of(name: str) -> Publication:
    """Of weights on the hub, whether the table has them or not."""
    return PUBLICATIONS.get(name) or _weights(name, None, "not known here: see its page")

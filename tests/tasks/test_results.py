"""Which change makes which stage new: a table over code, libraries, data files and configuration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sifthinker.config import Config, changed
from tasks.runtime import identity
from tasks.stages.ablation import ablation
from tasks.stages.annotate import annotate
from tasks.stages.depth import depth
from tasks.stages.evaluate import _served, evaluate
from tasks.stages.expand import expand
from tasks.stages.grpo import grpo
from tasks.stages.ingest import ingest
from tasks.stages.merge import merge
from tasks.stages.publish import publish, subset
from tasks.stages.report import report
from tasks.stages.retry import retry
from tasks.stages.scenes import scenes
from tasks.stages.sft import sft
from tasks.stages.weights import depth_weights, policy_weights
from tests.tasks.conftest import forget

BEFORE = (scenes, policy_weights, depth_weights, ingest, expand, depth, annotate, retry, publish, subset)
STAGES = {stage.name: stage for stage in (*BEFORE, sft, merge, grpo, evaluate, report, ablation)}
ENDPOINT = {"base_url": "https://api.example.org/v1", "model": "m"}
REAL = Config.model_validate(
    {
        "scenes": {},
        "annotate": {"api": {**ENDPOINT, "model": "m"}},
        "grpo": {"judge": {**ENDPOINT, "model": "m"}, "generation": "transformers"},
        "retry": {"passes": [{"seed": 1}]},
    }
)
TOYS = Config.model_validate(
    {
        "scenes": {},
        "annotate": {"api": {"base_url": "standin"}},
        "model": {"weights": "tiny"},
        "retry": {"passes": [{"seed": 1}]},
        "grpo": {"generation": "transformers", "judge": {"base_url": "standin"}},
    }
)
ALL = set(STAGES)
TRAINED = {"sft", "merge", "grpo"}
PICTURES = {
    "scenes",
    "ingest",
    "depth",
    "annotate",
    "retry",
    "publish",
    *TRAINED,
    "evaluate",
    "report",
    "ablation",
}
NOTHING: set[str] = set()

# (file, text in it, what it becomes): the stages that are new
CODE: dict[str, tuple[str, str, str, set[str]]] = {
    # wording
    "a log line of a training": (
        "sifthinker/training/checkpoints.py",
        "is incomplete and passed over",
        "is cut",
        NOTHING,
    ),
    "the wording of the progress": ("sifthinker/llm/call_counts.py", "in flight", "under way", NOTHING),
    "code of the progress": ("sifthinker/llm/call_counts.py", "return ", "return None or ", NOTHING),
    "a docstring": ("sifthinker/core/boxes.py", "Geometry of boxes", "Boxes", NOTHING),
    "a user's message": (
        "sifthinker/training/grpo.py",
        "raise UserError(",
        'raise UserError("Sorry: " + ',
        NOTHING,
    ),
    "a comment": ("sifthinker/data/expansion.py", "EXPANSIONS = 5 ", "EXPANSIONS = 5  # five", NOTHING),
    # transport, processes, what is only shown or expected
    "the client": ("sifthinker/llm/client.py", "_PENDING = 16", "_PENDING = 8", NOTHING),
    "the engine": ("sifthinker/llm/dispatcher.py", "wait = 0.05", "wait = 0.5", NOTHING),
    "the ledger": ("sifthinker/llm/ledger.py", "import ", "import this\nimport ", NOTHING),
    "how a server is ended": ("sifthinker/system/processes.py", "GRACE = 10.0", "GRACE = 9.0", NOTHING),
    "how a training resumes": (
        "sifthinker/training/checkpoints.py",
        '"complete.json"',
        '"whole.json"',
        NOTHING,
    ),
    "where DeepSpeed's files are": (
        "sifthinker/training/harness.py",
        'with_name("deepspeed")',
        'with_name("zero")',
        NOTHING,
    ),
    "what a run will cost": (
        "sifthinker/annotation/projection.py",
        "_RETRIES = 1.15",
        "_RETRIES = 2.0",
        NOTHING,
    ),
    "what a plan says of a stage": ("tasks/stages/annotate.py", 'return ""', 'return "?"', NOTHING),
    "how often a stage is retried": ("tasks/stages/sft.py", "retries=2", "retries=3", NOTHING),
    "the store": ("sifthinker/store/artifacts.py", "KEY_LENGTH = 20", "KEY_LENGTH = 24", NOTHING),
    "a configuration's default": (
        "sifthinker/config/training.py",
        "1e-4",
        "2e-4",
        NOTHING,
    ),  # its value counts
    "how long ranks wait for each other": (
        "sifthinker/training/harness.py",
        "COLLECTIVE = 3 *",
        "COLLECTIVE = 4 *",
        NOTHING,
    ),
    "how a judge that is away is asked again": (
        "sifthinker/training/outages.py",
        "PAUSES = (10.0,",
        "PAUSES = (5.0,",
        NOTHING,
    ),
    # results
    "a reward": ("sifthinker/rewards/grounding.py", "return ", "return 0 or ", {"grpo", "report"}),
    "a reward that a benchmark scores too": (
        "sifthinker/rewards/format.py",
        "return ",
        "return 0 or ",
        {"grpo", "evaluate", "report", "ablation"},
    ),
    "a prompt": (
        "sifthinker/core/prompts.py",
        "Your output was not accepted",
        "Your output was refused",
        {"annotate", "retry", *TRAINED, "evaluate", "report", "ablation"},
    ),
    "when an answer is the reference": (
        "sifthinker/annotation/annotate.py",
        "AGREEMENT = 0.8",
        "AGREEMENT = 0.9",
        {"annotate", "retry"},
    ),
    "what a pass takes over": ("sifthinker/annotation/retry.py", '"seed", ', "", {"retry"}),
    "a constant of the expansion": (
        "sifthinker/data/expansion.py",
        "EXPANSIONS = 5 ",
        "EXPANSIONS = 6 ",
        {"expand"},
    ),
    "the overlap of boxes": (
        "sifthinker/core/boxes.py",
        "/ len(pairs)",
        "/ (1 + len(pairs))",
        {"scenes", "ingest", "expand", "grpo", "evaluate", "report", "ablation"},
    ),
    "how rows are routed": (
        "tasks/stages/publish.py",
        "zip(*given, files",
        "zip(*given, files[::-1]",
        {"publish", "subset"},
    ),
    "how many rows are in a row group": (
        "sifthinker/data/ingest.py",
        "40_000 // config.shards",
        "30_000 // config.shards",
        {"ingest"},
    ),
    "what vLLM is told": (
        "sifthinker/models/vllm_command.py",
        '"--seed", "0"',
        '"--seed", "1"',
        {"evaluate"},
    ),
    "a benchmark": (
        "sifthinker/evaluation/benchmarks/pope.py",
        "return ",
        "return None or ",
        {"evaluate", "report", "ablation"},
    ),
    "the gate": ("sifthinker/evaluation/gate.py", "return ", "return None or ", {"ablation"}),
    "the layers that are trained": (
        "sifthinker/models/families/family.py",
        "TRAINED = ",
        'TRAINED = "" or ',
        {*TRAINED, "evaluate"},
    ),
    "the entry of the policy's family": (
        "sifthinker/models/families/qwen2_5_vl.py",
        "side=28",
        "side=56",
        {*TRAINED, "evaluate"},
    ),
    "the entry of another family": (
        "sifthinker/models/families/gemma3.py",
        "side=1",
        "side=2",
        NOTHING,
    ),
    "what a checkpoint's trainer is told": (
        "sifthinker/training/harness.py",
        '"logging_steps": 1',
        '"logging_steps": 2',
        TRAINED,
    ),
    "the page of the report": (
        "sifthinker/reporting/templates/report.html.jinja",
        "<",
        "<!-- --><",
        {"report"},
    ),
    "a part of that page": (
        "sifthinker/reporting/templates/score_gaps.html.jinja",
        "<",
        "<!-- --><",
        {"report"},
    ),
    # data
    "a field of DeepSpeed": (
        "sifthinker/training/deepspeed/zero3.json",
        ": true",
        ": false",
        {"sft", "grpo"},
    ),
    "the layout of DeepSpeed's file": ("sifthinker/training/deepspeed/zero3.json", "\n", "\n ", NOTHING),
    "a DeepSpeed file that is not used": (
        "sifthinker/training/deepspeed/zero2.json",
        ": true",
        ": false",
        NOTHING,
    ),
    # stand-ins, which are not used here
    "the random models": (
        "sifthinker/models/toys/__init__.py",
        "import ",
        "import this\nX = 1\nimport ",
        NOTHING,
    ),
    "the stand-in's replies": ("sifthinker/llm/standin/replies.py", "return ", "return None or ", NOTHING),
}
LIBRARIES: dict[str, set[str]] = {
    "torch": {"depth", *TRAINED, "evaluate"},
    "transformers": {"depth", *TRAINED, "evaluate"},
    "trl": {"sft", "grpo"},
    "peft": TRAINED,
    "accelerate": {"sft", "grpo"},
    "deepspeed": {"sft", "grpo"},
    "vllm": {"evaluate"},
    "pillow": PICTURES,
    "numpy": {"scenes", "ingest", "depth", "annotate", "retry", "publish", *TRAINED, "evaluate", "ablation"},
    "scipy": {"grpo", "evaluate", "ablation"},
    "pyarrow": {"publish", "subset"},
    "matplotlib": {"report", "ablation"},
    "tokenizers": NOTHING,
    "prefect": NOTHING,
    "openai": NOTHING,
}
FIELDS: list[tuple[dict[str, Any], set[str]]] = [
    ({"annotate.api.timeout": 3.0, "annotate.api.concurrency": 2}, NOTHING),
    ({"annotate.api.prices.prompt": 2.0, "annotate.api.budget_money": 5.0}, NOTHING),
    ({"evaluate.timeout": 3.0, "evaluate.concurrency": 2, "grpo.save_steps": 3}, NOTHING),
    ({"grpo.judge_patience": 60.0}, NOTHING),
    ({"grpo.vllm_server": "http://127.0.0.1:8001", "placement": "pools"}, NOTHING),
    ({"annotate.api.base_url": "https://other.example.org/v1"}, {"annotate", "retry"}),
    ({"annotate.api.model": "other"}, {"annotate", "retry"}),
    ({"annotate.prompt": "Look."}, {"annotate", "retry"}),
    ({"grpo.generation": "vllm_lora"}, {"grpo"}),
    ({"grpo.vllm.count": 2, "grpo.vllm.memory": 0.5, "grpo.max_logprob_gap": 0.1}, NOTHING),
    ({"evaluate.python": "/opt/vllm/bin/python"}, {"evaluate"}),  # whose libraries are not these
    ({"grpo.learning_rate": 3e-5}, {"grpo"}),
    ({"grpo.deepspeed": "zero2"}, {"grpo"}),
    ({"evaluate.server": "transformers"}, {"evaluate"}),
    ({"evaluate.server": "http://127.0.0.1:8000/v1"}, {"evaluate"}),
    ({"expand.variant": "progressive"}, {"expand"}),
    ({"ingest.max_pixels": 1000}, {"ingest", "depth", "publish"}),
]


def keys(config: Config = REAL) -> dict[str, str]:
    """Of all stages, from equal inputs."""
    return {
        name: identity.key(identity.identity(name, stage.results.of(config), stage.config(config), {}, {}))
        for name, stage in STAGES.items()
    }


def new(before: dict[str, str], after: dict[str, str]) -> set[str]:
    return {name for name in before if before[name] != after[name]}


def edit(tree: Path, file: str, old: str, other: str) -> None:
    text = (tree / file).read_text(encoding="utf-8")
    assert old in text, f"{file} has no {old!r} any more; correct the table"
    (tree / file).write_text(text.replace(old, other), encoding="utf-8")
    forget()


def append(tree: Path, file: str, line: str) -> None:
    with (tree / file).open("a", encoding="utf-8") as opened:
        opened.write(f"\n{line}")
    forget()


@pytest.fixture(scope="module")
def real() -> dict[str, str]:
    forget()
    return keys()


@pytest.mark.parametrize("what", CODE)
def test_a_change_of_the_code_makes_these_stages_new(tree: Path, real: dict[str, str], what: str) -> None:
    file, old, other, stages = CODE[what]
    edit(tree, file, old, other)
    assert new(real, keys()) == stages


@pytest.mark.parametrize(
    ("what", "again"),
    [
        ("the entry of the policy's family", {"transformers", "vllm"}),
        ("the entry of another family", NOTHING),
        ("what vLLM is told", {"vllm"}),
        ("a benchmark", NOTHING),  # it reads the replies that are there
    ],
)
def test_a_change_of_what_serves_takes_no_replies_from_the_ledger(
    tree: Path, what: str, again: set[str]
) -> None:
    servers = ("transformers", "vllm", "https://api.example.org/v1")  # the last one costs money

    def served() -> dict[str, str]:
        return {name: _served(changed(REAL, {"evaluate.server": name}, "test")) for name in servers}

    before = served()
    file, old, other, _ = CODE[what]
    edit(tree, file, old, other)
    assert new(before, served()) == again
    edit(tree, "sifthinker/models/processors.py", "_SPLITS = 6", "_SPLITS = 5")
    assert new(before, served()) == {"transformers", "vllm"}


@pytest.mark.parametrize("library", LIBRARIES)
def test_another_minor_version_of_a_library_makes_these_stages_new(
    real: dict[str, str], monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    has = identity.installed
    for version, stages in (("999.0.1", LIBRARIES[library]), (patched(has(library)), NOTHING)):
        monkeypatch.setattr(
            identity, "installed", lambda name, v=version: v if name == library else has(name)
        )
        assert new(real, keys()) == stages, version


def patched(version: str) -> str:
    """The next patch release, of another build."""
    return version if version == identity.ABSENT else f"{'.'.join(version.split('.')[:2])}.999+cu130"


@pytest.mark.parametrize(
    ("fields", "stages"), FIELDS, ids=lambda value: str(value) if isinstance(value, dict) else ""
)
def test_a_field_makes_these_stages_new(
    real: dict[str, str], fields: dict[str, Any], stages: set[str]
) -> None:
    assert new(real, keys(changed(REAL, fields, "test"))) == stages


def test_stand_ins_count_where_they_are_used(tree: Path) -> None:
    before = keys(TOYS)
    append(tree, "sifthinker/models/toys/__init__.py", "MORE = 1\n")
    built = keys(TOYS)
    assert new(before, built) == {"policy_weights"}
    edit(tree, "sifthinker/llm/standin/replies.py", "return ", "return None or ")
    assert new(built, keys(TOYS)) == {"annotate", "retry", "grpo"}

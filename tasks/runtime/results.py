"""Which of our modules decide results, and where they are.

A module has a logical name, which is part of every key. It does not change when a file moves: `MODULES` says where the
module is today, and a move edits the path there and nothing else. A module that is split keeps its name with several
paths.

tasks/runtime/stage_results.py names the modules that a stage starts from; their imports are followed
(tasks/runtime/closure.py). They end at a module that carries or shows what others decide (`neutral`, with the reason). A
module that is reached and not declared here is an error: whoever adds one says which of the two it is.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sifthinker.models.families import FAMILIES

ROOT = Path(__file__).resolve().parents[2]  # of the tree that paths and data files are in


@dataclass(frozen=True)
class Module:
    """Where a logical module is, and what of it counts."""

    paths: tuple[str, ...]  # dotted
    neutral: str = ""  # why it decides no result; empty: it does
    without: tuple[str, ...] = ()  # definitions that decide none although their module does


def _at(*paths: str, without: tuple[str, ...] = ()) -> Module:
    return Module(paths, without=without)


def _neutral(paths: str, why: str) -> Module:
    return Module(_names(paths), neutral=why)


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


_CARRIES = "carries requests and replies, which the modules that ask decide"
_SHOWN = "shows how far a stage is"
_RUNS = "starts, follows and ends processes"
_KEEPS = "keeps what others decide, as it is"
_VALUES = "its values are in the configuration of the key"
_SAMPLER = "counts where it samples (`given`)"
_TOYS = "builds a stand-in, which counts where one is used (`given`)"

MODULES: dict[str, Module] = {
    # records, geometry, text
    "sample": _at("sifthinker.core.records", "sifthinker.core.tables"),
    "given": _at("sifthinker.core.given"),
    "boxes": _at("sifthinker.core.boxes"),
    "chain": _at("sifthinker.core.chain"),
    "prompts": _at("sifthinker.core.prompts"),
    "special": _at("sifthinker.core.special_tokens"),
    "images": _at("sifthinker.core.images"),
    "depth": _at("sifthinker.core.depth_maps"),
    "durations": _at("sifthinker.core.durations"),
    "scores": _at("sifthinker.core.scores"),
    "draw": _at("sifthinker.core.drawing"),
    "statistics": _at("sifthinker.evaluation.statistics"),
    # data
    "scenes": _at("sifthinker.scenes"),
    "scenes/files": _at(
        "sifthinker.scenes.files",
        "sifthinker.scenes.folder",
        "sifthinker.scenes.boxed_questions",
        "sifthinker.scenes.several_looks",
        "sifthinker.scenes.vstar",
        "sifthinker.scenes.refcoco",
        "sifthinker.scenes.spatialbench",
    ),
    "scenes/layout": _at("sifthinker.scenes.layout"),
    "scenes/questions": _at("sifthinker.scenes.questions"),
    "scenes/render": _at("sifthinker.scenes.render"),
    "sources": _at("sifthinker.data.sources"),
    "sources/files": _at("sifthinker.data.sources.files"),
    "sources/frames": _at("sifthinker.data.sources.frames"),
    "sources/photographs": _at("sifthinker.data.sources.photographs"),
    "sources/sif50k": _at("sifthinker.data.sources.sif50k"),
    "sources/row": _at("sifthinker.data.sources.fields"),
    "sources/tallyqa": _at("sifthinker.data.sources.tallyqa"),
    "sources/viscot": _at("sifthinker.data.sources.viscot"),
    "ingest": _at(
        "sifthinker.data.ingest",
        "sifthinker.data.ingest_parts",
        "sifthinker.data.ingest_rows",
        "sifthinker.data.ingest_work",
    ),
    "spill": _at("sifthinker.data.disk_dict"),
    "expand": _at("sifthinker.data.expansion"),
    "estimate": _at("sifthinker.data.depth_estimation", without=("estimator",)),
    "publish": _at("sifthinker.data.publish", "sifthinker.data.features"),
    "rl_file": _neutral("sifthinker.data.rl_file", "counts where a file names the RL subset (`given`)"),
    "card": _neutral("sifthinker.data.card", "describes a data set; no stage reads it"),
    # annotation
    "annotate": _at("sifthinker.annotation.annotate"),
    "agreement": _at("sifthinker.annotation.acceptance", "sifthinker.annotation.agreement"),
    "matching": _at("sifthinker.annotation.matching"),
    "taken": _neutral("sifthinker.annotation.taken", "counts where a source brings its chains (`given`)"),
    "wanted": _at("sifthinker.annotation.wanted"),
    "rounds": _neutral(
        "sifthinker.annotation.rounds",
        "what a shard shall keep is in its key; it only asks on where chains are missing",
    ),
    "reasoning": _at("sifthinker.core.reasoning"),
    "judge": _at("sifthinker.llm.judge"),
    "retry": _at("sifthinker.annotation.retry"),
    # models and training
    "models": _at("sifthinker.models.loading", without=("_download", "check_depth", "check_policy")),
    "models/hub": _neutral(
        "sifthinker.models.hub sifthinker.models.published", "fetches weights, whose digest counts"
    ),
    "folders": _neutral(
        "sifthinker.models.folders sifthinker.models.template_check", "refuses a folder, and changes none"
    ),
    "families": _at("sifthinker.models.families.family"),
    "families/table": _neutral(
        "sifthinker.models.families", "lists entries; the model's own counts (`given`)"
    ),
    **{f"families/{name}": _at(f"sifthinker.models.families.{name}") for name in FAMILIES},
    "processors": _at("sifthinker.models.processors"),
    "budget": _at("sifthinker.models.budget"),
    "serve": _at(
        "sifthinker.models.generation",
        "sifthinker.models.batches",
        "sifthinker.models.serving",  # what it serves and how counts; how its processes are started and ended does not
        without=_names(
            "serving several _started _command vllm run_vllm _owner _ask _free_port _wait _files _end_of main _serve Wanted "
            "ServerFailed _START _GRACE _LOG_LINES"
        ),
    ),
    "serve/vllm": _neutral("sifthinker.models.vllm_command", "counts where vLLM serves (`given`)"),
    "rewards": _at("sifthinker.rewards"),
    "rewards/answer": _at("sifthinker.rewards.answer"),
    "rewards/depth": _at("sifthinker.rewards.depth"),
    "rewards/format": _at("sifthinker.rewards.format"),
    "rewards/grounding": _at("sifthinker.rewards.grounding"),
    "rewards/reward": _at("sifthinker.rewards.reward"),
    "rewards/variant": _at("sifthinker.rewards.variant"),
    "training/rows": _at("sifthinker.training.rows"),
    "training/run": _at(
        "sifthinker.training.harness",
        "sifthinker.training.adapters",
        "sifthinker.training.json_files",
        "sifthinker.training.ranks",
        without=_names(
            "main load check_world report_to collective_timeout COLLECTIVE BACKOFF DEEPSPEED"
        ),  # how it starts, and how long ranks wait
    ),
    "training/scoring": _at("sifthinker.training.scoring"),
    "training/sft": _at("sifthinker.training.sft"),
    "training/held_out": _at("sifthinker.training.held_out", "sifthinker.training.held_out_rows"),
    "training/grpo": _at("sifthinker.training.grpo"),
    "training/samplers": _neutral(
        "sifthinker.training.samplers sifthinker.training.samplers.sampler",
        "names what samples, which counts (`given`)",
    ),
    "training/samplers/trl": _neutral("sifthinker.training.samplers.trl_samplers", _SAMPLER),
    "training/samplers/lora": _neutral(
        "sifthinker.training.samplers.vllm_lora sifthinker.training.samplers.adapter_server", _SAMPLER
    ),
    "training/samplers/agreement": _neutral(
        "sifthinker.training.samplers.agreement", "ends a training, and changes none"
    ),
    "training/merge": _at("sifthinker.training.merge"),
    # evaluation
    "evaluate": _at(
        "sifthinker.evaluation.evaluate",
        "sifthinker.evaluation.asking",
        "sifthinker.evaluation.scoring",
        "sifthinker.evaluation.shown",
    ),
    "evaluate/probe": _neutral(
        "sifthinker.evaluation.judge_probe", "asks the judge as the stage does, before it"
    ),
    "evaluate/server": _neutral(
        "sifthinker.evaluation.running_server", "says whose replies they are, or refuses a server"
    ),
    "benchmarks": _at("sifthinker.evaluation.benchmarks"),
    **{
        f"benchmarks/{name}": _at(f"sifthinker.evaluation.benchmarks.{name}")
        for name in _names(
            "affirmation asides box_frames choices counts cvbench files metrics mmbench mme option_texts ovdeval pope question refcoco "
            "replies sat seed sif spatialbench viscot vqav2 vstar wording"
        )
    },
    "publications": _neutral(
        "sifthinker.core.publications sifthinker.data.sources.published sifthinker.evaluation.benchmarks.published",
        "says where files are published",
    ),
    "benchmarks/presence": _neutral(
        "sifthinker.evaluation.benchmarks.presence", "refuses a run, and changes no result"
    ),
    "benchmarks/job": _at("sifthinker.evaluation.benchmarks.selection"),
    "gate": _at("sifthinker.evaluation.gate"),
    "failures": _at("sifthinker.evaluation.failures"),
    "history": _at("sifthinker.evaluation.history"),
    "ablation": _at("sifthinker.evaluation.ablation", "sifthinker.evaluation.over_seeds"),
    # pages
    "report": _at(
        "sifthinker.reporting.report",
        "sifthinker.reporting.outcome",
        "sifthinker.reporting.bought",
        "sifthinker.reporting.markdown",
    ),
    "plots": _at("sifthinker.reporting.plots"),
    "pages": _at("sifthinker.reporting.pages"),
    "lineage": _at("sifthinker.store.lineage", "sifthinker.reporting.lineage_picture"),
    "paper": _at("sifthinker.reporting.paper_results", "sifthinker.reporting.paper_tables"),
    "apart": _at("sifthinker.reporting.score_gaps"),
    # the stages' own functions: how rows are routed and what a program is told
    **{
        f"stages/{name}": _at(f"tasks.stages.{name}")
        for name in _names("ablation depth expand grpo ingest merge publish report scenes sft weights")
    },
    "stages/annotate": _at(
        "tasks.stages.annotate", without=_names("_annotating _expects _identity _say_how_many _further")
    ),
    "stages/evaluate": _at(
        "tasks.stages.evaluate", without=_names("_files _served _free_the_gpu _lacks _expects _probing")
    ),
    "stages/retry": _at("tasks.stages.retry", without=("_retrying", "_expects", "_lacks", "_probe")),
    # what decides nothing
    "config": _neutral(
        "sifthinker.config sifthinker.config.choices sifthinker.config.mistakes sifthinker.config.presets "
        "sifthinker.config.layers sifthinker.config.reading sifthinker.config.yaml_files",
        _VALUES,
    ),
    "sections": _neutral(
        "sifthinker.config.api sifthinker.config.data sifthinker.config.evaluation sifthinker.config.placement "
        "sifthinker.config.reproduction sifthinker.config.section sifthinker.config.training",
        _VALUES,
    ),
    "errors": _neutral("sifthinker.core.errors", "names an error"),
    "disk": _neutral("sifthinker.system.disk_errors", "explains what a full disk means"),
    "store": _neutral(
        "sifthinker.store.artifacts sifthinker.store.uploads sifthinker.store.downloads sifthinker.store.manifest sifthinker.store.digests sifthinker.store.sealing sifthinker.store.shared_records sifthinker.store.verification",
        _KEEPS,
    ),
    "files": _neutral("sifthinker.system.files", _KEEPS),
    "server": _neutral(
        "sifthinker.models.embedded_server sifthinker.models.protocol sifthinker.models.turns sifthinker.models.workers",
        _CARRIES,
    ),
    "vlm": _neutral("sifthinker.llm sifthinker.llm.client", _CARRIES),
    "engine": _neutral("sifthinker.llm.dispatcher", _CARRIES),
    "request": _neutral("sifthinker.llm.request", _CARRIES),
    "completion": _neutral("sifthinker.llm.completion", _CARRIES),
    "keys": _neutral("sifthinker.llm.keys", _CARRIES),
    "local_models": _neutral("sifthinker.llm.local_models", "digests weights, which count in keys"),
    "network": _neutral("sifthinker.llm.network", _CARRIES),
    "parameters": _neutral("sifthinker.llm.parameters sifthinker.llm.witnesses", "ends a stage that fails"),
    "commits": _neutral("sifthinker.llm.commits", _KEEPS),
    "costs": _neutral("sifthinker.llm.costs", _CARRIES),
    "usage": _neutral("sifthinker.llm.usage", _CARRIES),
    "patience": _neutral("sifthinker.llm.patience", _CARRIES),
    "waiting": _neutral("sifthinker.system.waiting", _CARRIES),
    "loopback": _neutral("sifthinker.system.loopback", _CARRIES),
    "endpoint": _neutral(
        "sifthinker.llm.connections sifthinker.llm.endpoint_errors sifthinker.llm.http", _CARRIES
    ),
    "batch": _neutral(
        "sifthinker.llm.batch sifthinker.llm.batch_answers sifthinker.llm.batch_calls sifthinker.llm.batch_states",
        _CARRIES,
    ),
    "limits": _neutral(
        "sifthinker.llm.rate_limits sifthinker.llm.rate_limits_file sifthinker.llm.rate_limits_postgres",
        _CARRIES,
    ),
    "ledger": _neutral(
        "sifthinker.llm.bookkeeping sifthinker.llm.ledger sifthinker.llm.ledger_batches sifthinker.llm.ledger_import "
        "sifthinker.llm.ledger_postgres sifthinker.llm.ledger_sqlite sifthinker.llm.postgres",
        _KEEPS,
    ),
    "progress": _neutral("sifthinker.llm.call_counts", _SHOWN),
    "lifeline": _neutral("sifthinker.system.processes sifthinker.system.program_files", _RUNS),
    "cores": _neutral("sifthinker.system.cores", _RUNS),
    "gpu": _neutral("sifthinker.system.gpu", "gives memory back"),
    "commands": _neutral("sifthinker.system.commands", "says which version a command has"),
    "projection": _neutral("sifthinker.annotation.projection", "says what a stage will cost"),
    "early": _neutral("sifthinker.annotation.early_stop", "ends a stage that fails"),
    "figures": _neutral("sifthinker.annotation.chain_figures", "measures chains, for people"),
    "probe": _neutral(
        "sifthinker.annotation.probe sifthinker.annotation.first_rows sifthinker.annotation.preview",
        "asks what the stage asks, before it",
    ),
    "rejects": _neutral("sifthinker.core.rejects", "lists what was rejected, for people"),
    "training/checkpoints": _neutral(
        "sifthinker.training.checkpoints sifthinker.training.stopping",
        "stops a training and resumes it, to the same result",
    ),
    "machine": _neutral("sifthinker.system.machine", "names the machine and the commit on a page"),
    "evaluation/progress": _neutral("sifthinker.evaluation.progress", _SHOWN),
    "training/progress": _neutral("sifthinker.training.progress", _SHOWN),
    "merge_check": _neutral("sifthinker.training.merge_check", "refuses a merge, and changes none"),
    "training/outages": _neutral("sifthinker.training.outages", _CARRIES),
    "rowcheck": _neutral("sifthinker.training.row_check", "refuses a row, and changes none"),
    "preflight": _neutral(
        "sifthinker.training.preflight sifthinker.training.memory", "refuses a training, and changes none"
    ),
    "standin": _neutral(
        "sifthinker.llm.standin sifthinker.llm.standin.faults sifthinker.llm.standin.server "
        "sifthinker.llm.standin.starting sifthinker.llm.standin.wire sifthinker.llm.standin.__main__",
        _CARRIES,
    ),
    "standin/replies": _neutral("sifthinker.llm.standin.replies", _TOYS),
    "standin/seeing": _neutral("sifthinker.llm.standin.seeing", _TOYS),
    "standin/eyes": _neutral("sifthinker.models.seeing_standin", _TOYS),
    "tiny": _neutral(
        "sifthinker.models.toys sifthinker.models.toys.gemma3 sifthinker.models.toys.idefics3 "
        "sifthinker.models.toys.internvl sifthinker.models.toys.llava sifthinker.models.toys.qwen "
        "sifthinker.models.toys.text",
        _TOYS,
    ),
    "miniature": _neutral("sifthinker.models.miniature", "names a folder, whose files count as inputs"),
    "runtime/stage": _neutral(
        "tasks.runtime.stage tasks.runtime.decide tasks.runtime.make tasks.runtime.shards tasks.runtime.elsewhere tasks.runtime.store_paths",
        _KEEPS,
    ),
    "runtime/events": _neutral(
        "tasks.runtime.events tasks.runtime.progress tasks.runtime.stage_log", "shows and logs what happens"
    ),
    "runtime/refusal": _neutral("tasks.runtime.refusal", "fails a stage, and changes no result"),
    "runtime/run": _neutral(
        "tasks.runtime.pipeline tasks.runtime.planned", "plans stages, and carries them out"
    ),
    "runtime/endpoint": _neutral("tasks.runtime.endpoint", _CARRIES),
    "runtime/rehearsal": _neutral("tasks.runtime.rehearsal", "refuses a training, and changes none"),
    "runtime/process": _neutral("tasks.runtime.programs tasks.runtime.following tasks.runtime.nodes", _RUNS),
    "runtime/results": _neutral("tasks.runtime.results tasks.runtime.stage_results", "says what decides"),
    "runtime/closure": _neutral("tasks.runtime.closure", "digests modules"),
    "runtime/identity": _neutral("tasks.runtime.identity", "makes keys"),
}

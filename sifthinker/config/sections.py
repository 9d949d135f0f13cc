"""The sections of the configuration, one a stage, with every default's source; `sifthinker.config` puts them together.

Every default is the paper's and names its source, or says "not given in the paper".

A field marked `operational()` changes how a stage runs, never what comes out (paths, concurrency, time-outs,
environment variable names); it is left out of the stage's identity, so changing it reruns nothing.
This module holds no logic that results depend on, and is therefore left out of the code digests too.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

STANDIN = "standin"  # as an endpoint's base_url: the embedded stand-in server is started for the stage


class Section(BaseModel):
    # Defaults are validated: 20 and 20.0 are one value, but two in a key.
    model_config = ConfigDict(extra="forbid", frozen=True, validate_default=True)


def operational(default: Any = ..., **kwargs: Any) -> Any:
    """A field that is no part of a stage's identity."""
    return Field(default, json_schema_extra={"operational": True}, **kwargs)


def pool(default: str | None, gpus: str) -> Any:
    """A field that names a work pool."""
    return operational(
        default,
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        description=f"work pool; none: the flow's process. Needs {gpus}",
    )


class Pools(Section):
    """With `placement: pools`: the Prefect work pool of each stage that needs a GPU."""

    depth: str | None = pool("gpu-1", "one GPU")
    sft: str | None = pool("gpu-8", "as many GPUs as sft.ranks")
    merge: str | None = pool("gpu-1", "one GPU, or memory for the model in fp32")
    grpo: str | None = pool("gpu-8", "as many GPUs as grpo.ranks")
    evaluate: str | None = pool("gpu-1", "one GPU, for the server that it starts")
    wait: float = operational(
        24.0, gt=0, description="hours that a stage waits for its pool to take it before the run fails"
    )


class Scenes(Section):
    """Rendered scenes with exact boxes and depth: the embedded input where no data set is at hand."""

    rows: int = Field(48, ge=1, description="questions written for training")
    benchmark_rows: int = Field(
        24, ge=2, description="questions per benchmark; other scenes than the training's"
    )
    benchmarks: tuple[Literal["sif", "vstar", "refcoco", "spatialbench"], ...] = Field(
        ("sif", "vstar", "refcoco", "spatialbench"), description="which are written and asked"
    )
    seed: int = Field(0, description="same seed, same files")
    width: int = Field(224, ge=64, le=1024, description="pixels")
    height: int = Field(168, ge=64, le=1024, description="pixels")
    fewest: int = Field(4, ge=2, le=8, description="solids in a scene; more are harder")
    most: int = Field(6, ge=2, le=8, description="solids in a scene")


class Source(Section):
    """A file of annotations with the folder of its images."""

    name: str = Field(
        pattern=r"^[a-z0-9][a-z0-9_-]*$", description="unique; the `source` column of the data set"
    )
    format: Literal["viscot", "tallyqa"] = Field(description="viscot: conversations .json or metadata .jsonl")
    path: Path = operational(description="the annotation file")
    images: Path | None = operational(
        None, description="folder of the images; none: images are not opened and sizes come from the file"
    )
    sizes: Path | None = operational(
        None, description="viscot only, without images: a benchmark_det .jsonl that gives width and height"
    )
    frame: Literal["padded", "release"] = Field(
        "padded",
        description="viscot conversations: boxes are on the square-padded canvas; 'release' reads them as the "
        "authors' code does (PAPER.md R2.1), for comparison only",
    )


class Ingest(Section):
    """Which rows of the sources are taken."""

    exclude: tuple[str, ...] = Field(
        ("docvqa", "dude", "textvqa", "sroie", "infographicsvqa", "textcap"),
        description="data sets left out: text documents (release, filter_and_save_json)",
    )
    cap: int = Field(10_000, ge=1, description="most rows of one data set (release, filter_and_save_json)")
    total: int = Field(50_000, ge=1, description="most rows in all (SIF-50K)")
    seed: int = Field(0, description="of the sampling under the caps; not given in the paper")
    max_pixels: int = Field(50_000_000, ge=1, description="images with more pixels are rejected unopened")
    shards: int = Field(64, ge=1, le=200, description="parts that the following data stages work in")


class Expand(Section):
    """The boxes that a chain narrows down from."""

    variant: Literal["release", "progressive"] = Field(
        "release", description="release: the only complete definition; progressive: our reading of Fig. 1b"
    )
    distractor_share: float = Field(
        0.5, ge=0, le=1, description="chains given a distractor (release, produce.py)"
    )
    seed: int = Field(0, description="with the sample's id it decides the distractor; not given in the paper")


class Depth(Section):
    """Depth maps by Depth Anything V2."""

    weights: str = Field(
        "depth-anything/Depth-Anything-V2-Small-hf",
        description="'tiny' (random, built on the spot), 'miniature' (small, trained on rendered scenes), a local "
        "folder, or a hub id. Large is CC-BY-NC-4.0",
    )
    revision: str | None = Field(None, description="hub revision, pinned for a reproduction")
    size: int = Field(518, ge=14, description="shorter side of the model's input, pixels, multiple of 14")
    batch: int = operational(8, ge=1, description="images of one size a forward pass")
    workers: int = operational(2, ge=1, description="threads that read and resize ahead of the model")


class Prices(Section):
    """Money per million tokens; 0 = not counted."""

    currency: str = Field("USD", description="name shown beside amounts")
    prompt: float = Field(0, ge=0, description="per million prompt tokens")
    cached_prompt: float = Field(
        0, ge=0, description="per million prompt tokens that the provider had cached"
    )
    completion: float = Field(0, ge=0, description="per million completion tokens")
    batch_discount: float = Field(0.5, ge=0, le=1, description="factor on all prices in batch mode")


class Api(Section):
    """An OpenAI-compatible endpoint."""

    base_url: str = Field(STANDIN, description="'standin' starts the embedded stand-in server")
    model: str = Field("standin", description="the endpoint's name of the model")
    mode: Literal["chat", "batch", "batch_chat"] = Field(
        "chat", description="batch: OpenAI Batch API; batch_chat: a provider's online batch endpoint"
    )
    batch_chat_path: str = Field("/batch/chat/completions", description="batch_chat: path below base_url")
    api_key_env: str = operational("OPENAI_API_KEY", description="environment variable that holds the key")
    requests_per_minute: int | None = operational(
        None, ge=1, description="the account's limit; none = no limit"
    )
    tokens_per_minute: int | None = operational(
        None, ge=1, description="the account's limit; none = no limit"
    )
    concurrency: int = operational(64, ge=1, description="most requests in flight; adapts below it")
    timeout: float = operational(120.0, gt=0, description="seconds for one request")
    retries: int = operational(8, ge=0, description="of the transport: 408, 409, 429, 5xx, time-outs, resets")
    max_pause: float = operational(
        600.0,
        gt=0,
        le=86_400,
        description="seconds; the longest pause (Retry-After) that is waited for. A server that then asks for a "
        "longer one again ends the stage",
    )
    budget_tokens: int | None = operational(None, ge=0, description="hard stop; none = no limit")
    budget_money: float | None = operational(None, ge=0, description="hard stop in the prices' currency")
    prices: Prices = operational(Prices())

    @model_validator(mode="after")
    def _money_needs_prices(self) -> Self:
        if self.budget_money is not None and not (self.prices.prompt or self.prices.completion):
            raise ValueError(
                "budget_money cannot be held without prices: set prices.prompt and prices.completion (money per "
                "million tokens), or use budget_tokens"
            )
        return self


class Annotate(Section):
    """The chains' texts, written by a model behind an API."""

    api: Api = Api(model="doubao-1.5-vision-pro")  # paper: Doubao-1.5-vision-pro
    attempts: int = Field(
        3, ge=1, description="calls a sample may take, the reason fed back (release: 3 tries)"
    )
    temperature: float = Field(0.7, ge=0, description="not given in the paper")
    max_tokens: int = Field(2048, ge=64, description="of a reply; not given in the paper")
    max_pixels: int = Field(589_824, ge=3136, description="images are sized down to this before sending")
    jpeg_quality: int = Field(90, ge=1, le=100, description="percent, of the images sent")
    prompt: str = Field("", description="the system text; none: prompts.ANNOTATOR_SYSTEM")
    seed: int | None = Field(None, description="sent with every request, for models that know one")
    give_up_after: int = operational(
        50,
        ge=0,
        description="the stage stops when so many rows were rejected and none was accepted before; 0 = never",
    )


class Again(Section):
    """One pass over rows that were rejected: what differs from `annotate`. Fields left out are annotate's."""

    reasons: tuple[str, ...] = Field((), description="rows rejected for these reasons; none = for any")
    model: str | None = Field(None, description="another model of the same endpoint")
    api: Api | None = Field(None, description="another endpoint")
    prompt: str | None = Field(None, description="another system text")
    temperature: float | None = Field(None, ge=0, description="another temperature")
    seed: int | None = Field(
        None, description="another seed: an equal request has its answer in the ledger already"
    )
    attempts: int | None = Field(None, ge=1, description="calls a sample may take in this pass")


class Retry(Section):
    """Dead letters: the rows that annotate rejected, asked again, alone."""

    passes: tuple[Again, ...] = Field(
        (), description="one after the other, each over what is rejected by then; none = no such stage"
    )


class Publish(Section):
    """The data set, and the subset that GRPO trains on."""

    rl_samples: int = Field(200, ge=1, description="of the RL subset, stratified by data set (paper: 200)")
    seed: int = Field(0, description="of the RL subset")


class Model(Section):
    """The policy: base weights and what every stage that feeds it must agree on."""

    weights: str = Field(
        "Qwen/Qwen2.5-VL-7B-Instruct", description="'tiny', 'miniature', a local folder, or a hub id (paper)"
    )
    revision: str | None = Field(None, description="hub revision, pinned for a reproduction")
    family: Literal["qwen2_5_vl", "qwen2_vl", "qwen3_vl", "llava"] = Field(
        "qwen2_5_vl", description="architecture of the weights"
    )
    max_pixels: int = Field(
        262_144,
        ge=784,
        description="image pixel budget in SFT, GRPO, evaluation and serving (release: SFT's)",
    )
    depth_input: bool = Field(True, description="show the depth picture too; false is the paper's ablation")
    seed: int = Field(0, description="of a tiny model's random weights")


class Lora(Section):
    """The trained adapter."""

    r: int = Field(ge=1, description="rank")
    alpha: int = Field(ge=1, description="scale: the adapter counts alpha / r")
    dropout: float = Field(ge=0, lt=1, description="share of the adapter's inputs left out")


class Train(Section):
    """What SFT and GRPO have in common."""

    learning_rate: float = Field(gt=0, description="at its peak")
    epochs: float = Field(gt=0, description="passes over the data")
    max_steps: int = Field(-1, description="stop after so many optimiser steps; -1 = by epochs")
    batch: int = Field(ge=1, description="samples (SFT) or completions (GRPO) a rank and forward pass")
    accumulation: int = Field(ge=1, description="forward passes an optimiser step")
    ranks: int = Field(8, ge=1, description="processes = GPUs (paper: 8)")
    deepspeed: Literal["none", "zero2", "zero3", "zero2_offload", "zero3_offload"] = Field(
        "zero3", description="what the ranks share out; offload: to the machine's memory"
    )
    precision: Literal["bf16", "fp32"] = Field("bf16", description="of the weights and the computation")
    gradient_checkpointing: bool = Field(True, description="computes activations twice to save memory")
    seed: int = Field(0, description="not given in the paper")
    save_steps: int = operational(50, ge=1, description="optimiser steps between checkpoints")
    timeout: float = operational(60 * 60 * 24 * 7, gt=0, description="seconds for the whole stage")
    trackers: tuple[Literal["tensorboard", "wandb", "mlflow"], ...] = operational(
        ("tensorboard",), description="who is told about the steps besides our own files; may be empty"
    )
    show_steps: int = operational(
        10, ge=1, description="optimiser steps between two pages of curves and completions in the UI"
    )


class Sft(Train):
    """Supervised fine-tuning on the chains."""

    learning_rate: float = Field(1e-4, gt=0, description="at its peak")  # paper, implementation details
    epochs: float = Field(3, gt=0, description="passes over the data")  # paper
    batch: int = Field(2, ge=1, description="samples a rank and forward pass")  # release, train_sft.yaml
    accumulation: int = Field(
        8, ge=1, description="forward passes an optimiser step"
    )  # release, train_sft.yaml
    lora: Lora = Lora(r=8, alpha=16, dropout=0.0)  # r: paper; alpha, dropout: LLaMA-Factory's defaults
    warmup_ratio: float = Field(
        0.1, ge=0, lt=1, description="share of the steps in which the rate rises (release, train_sft.yaml)"
    )
    held_out: float = Field(0.0, ge=0, lt=1, description="share kept for a validation loss (release: 0.1)")
    target: Literal["chain", "answer"] = Field(
        "chain", description="what is learnt; the bare answer to the plain question is the paper's VQA-SFT"
    )
    max_length: int = Field(4096, ge=64, description="tokens; release cut at 2048, silently")
    too_long: Literal["error", "reject"] = Field(
        "error", description="for a chain that does not fit; never cut"
    )


class Rewards(Section):
    """What GRPO rewards."""

    variant: Literal["paper", "release"] = Field("paper", description="where the two differ")
    # Unit weights: release code, no weights stated in the paper. 0 = logged, not optimised.
    format: float = Field(1.0, description="weight of the chain's format; 0 = logged, not optimised")
    answer: float = Field(1.0, description="weight of the judged answer; 0 = logged, not optimised")
    grounding: float = Field(1.0, description="weight of the boxes; 0 = logged, not optimised")
    depth: float = Field(1.0, description="weight of the depths; 0 = logged, not optimised")
    progress: bool = Field(
        True, description="r_ans with the last epoch's mean; false is the paper's ablation"
    )
    depth_tolerance: float = Field(0.1, gt=0, description="largest error of a depth (paper, T)")
    max_absent: float = Field(
        0.5, ge=0, le=1, description="share of absent judge scores in a step that stops the run"
    )


class Grpo(Train):
    """GRPO-SIF on the RL subset."""

    learning_rate: float = Field(1e-5, gt=0, description="at its peak")  # paper
    epochs: float = Field(20, gt=0, description="passes over the data")  # paper; release: 1
    batch: int = Field(
        1, ge=1, description="completions a rank and forward pass"
    )  # release, train_grpo_sif.sh
    accumulation: int = Field(2, ge=1, description="forward passes an optimiser step")  # release
    lora: Lora = Lora(r=64, alpha=128, dropout=0.05)  # r: paper; alpha, dropout: release
    generations: int = Field(8, ge=2, description="completions of one prompt, compared (paper, N)")
    beta: float = Field(0.04, ge=0, description="weight of the KL divergence from the SFT model (paper)")
    temperature: float = Field(1.0, gt=0, description="of sampling (release, hard-coded)")
    max_completion: int = Field(2048, ge=16, description="tokens")  # release 2048, paper "2028"
    rewards: Rewards = Rewards()
    judge: Api = Api(model="doubao-1.5-vision-pro")  # paper: same model as the annotator
    generation: Literal["transformers", "vllm_colocate", "vllm_server"] = Field(
        "transformers", description="what samples the completions"
    )
    vllm_server: str = operational(
        "http://127.0.0.1:8000",
        description="vllm_server only: address of the server of the merged SFT model; how to start it: training/grpo.py",
    )


class Merge(Section):
    """The adapter merged into its base."""

    precision: Literal["bf16", "fp32"] = Field(
        "bf16", description="of the merged weights' files; the merge itself is computed in fp32"
    )
    prompts: int = Field(
        4,
        ge=1,
        description="rows whose answers are compared, adapter against merged: training/merge_check.py",
    )
    unchanged: Literal["error", "note"] = Field(
        "error",
        description="for a merge that changes nothing; 'note' for random models, which earn no reward",
    )


class Benchmark(Section):
    """A benchmark's files."""

    name: str = Field(description="one of sifthinker.evaluation.benchmarks.BENCHMARKS")
    path: Path = operational(description="annotation file or folder, as published")
    images: Path = operational(description="folder of the images")
    split: str = Field(
        "", description="where a benchmark has several, e.g. refcoco+_testB; sif: its file's format"
    )
    labels: Literal["listed", "each"] = Field(
        "listed",
        description="ovdeval only, whose labels the authors do not say how to attach: 'listed' gives the boxes the "
        "targets in the order in which the answer names them, 'each' every named target",
    )
    choices: Literal["shuffled", "official", "file"] = Field(
        "shuffled",
        description="sat only: 'shuffled' lists a question's choices in an order of its own, because the file has the "
        "right one first; 'official' does so in the words of SAT's own loader; 'file' keeps the file's order, as the "
        "authors' release does, and gives the answers away",
    )


class Evaluate(Section):
    """The benchmarks, asked through a server of the merged model."""

    benchmarks: tuple[Benchmark, ...] = Field((), description="rendered scenes add their own")
    limit: int | None = Field(None, ge=1, description="samples per benchmark, seeded; marked wherever shown")
    seed: int = Field(0, description="of the samples under `limit`, and of sampled replies")
    think: bool = Field(True, description="ask for the chain; false asks the plain question")
    box_frame: Literal["image", "family", "resized", "thousand", "padded"] = Field(
        "image",
        description="frame of the boxes in replies: 'image', 0..1 of the picture, as they are asked for; 'family', the "
        "one that the base model's family was taught; or that by name: 'resized', pixels of the picture as the model "
        "saw it; 'thousand', 0..1000 of the picture; 'padded', 0..1 of the picture padded to a square",
    )
    max_tokens: int = Field(2048, ge=16, description="of a reply")
    temperature: float = Field(0.0, ge=0, description="not given in the paper; 0 is reproducible")
    sampled: float | None = Field(
        None,
        gt=0,
        description="temperature of a second reply to every question, scored as the benchmark '<name> sampled'; none: "
        "not asked for",
    )
    judge: Api | None = Field(
        None, description="scores VisCoT-s (paper: the annotator's model); none: that benchmark is left out"
    )
    fresh: str = Field("", description="questions are asked again for every other value, not remembered")
    server: Literal["transformers", "vllm"] | str = Field(
        "vllm", description="server the stage starts, or the base URL of one that runs"
    )
    concurrency: int = operational(64, ge=1, description="most requests in flight")
    timeout: float = operational(600.0, gt=0, description="seconds for one request")


class Report(Section):
    """The page that shows the outcome."""

    examples: int = Field(8, ge=0, description="chains drawn in the report")


class Nightly(Section):
    """What a night evaluates, and what makes it fail."""

    models: tuple[str, ...] = Field(
        ("promoted",),
        description="checkpoints: an alias (`sif promote`), 'latest', the name or id of a run, <stage>/<key> of the "
        "store, or a folder",
    )
    benchmarks: tuple[str, ...] = Field((), description="names of evaluate.benchmarks; none = all of them")
    baseline: str = Field(
        "baseline", description="alias that every night is compared with, once it is pinned"
    )
    level: float = Field(
        0.001,
        gt=0,
        lt=0.5,
        description="chance, at most, that a night fails although nothing changed: gate.py",
    )
    margin: float = Field(
        0.01,
        ge=0,
        lt=1,
        description="fall of a benchmark's mean strict score, of 1, that no night fails or warns for",
    )
    margins: dict[str, float] = Field(
        {}, description="the same by benchmark: a flaky one gets a wider margin"
    )
    unparsable: float = Field(
        0.05,
        ge=0,
        lt=1,
        description="rise of the share of a benchmark's unparsable replies, of 1, above which a night warns",
    )
    fresh: bool = Field(False, description="ask every question again, whatever was answered before")
    flips: int = Field(12, ge=0, description="changed samples of a benchmark that the report shows")
    max_late: float = Field(
        12.0, gt=0, description="hours after its time at which a night that could not start is given up"
    )


class Variant(Section):
    """One row of the ablation."""

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$", description="unique; the row in the table")
    trained: Literal["no", "sft", "grpo"] = Field("grpo", description="how far the row is trained")
    fields: dict[str, Any] = Field({}, description="what differs from the configuration, by dotted name")


class Ablation(Section):
    """The rows of the paper's Table 5, and what it leaves out."""

    reference: str = Field("full", description="the row that the others are compared with")
    variants: tuple[Variant, ...] = Field(
        (
            Variant(
                name="base",
                trained="no",
                fields={"evaluate.think": False, "evaluate.box_frame": "family"},
            ),
            Variant(
                name="vqa-sft",
                trained="sft",
                fields={
                    "sft.target": "answer",
                    "evaluate.think": False,
                    "evaluate.box_frame": "family",  # its training shows it no boxes
                },
            ),
            Variant(name="cot-sft", trained="sft"),
            Variant(name="full"),
            Variant(name="no-format-reward", fields={"grpo.rewards.format": 0.0}),
            Variant(name="no-answer-reward", fields={"grpo.rewards.answer": 0.0}),
            Variant(name="no-grounding-reward", fields={"grpo.rewards.grounding": 0.0}),
            Variant(name="no-depth-reward", fields={"grpo.rewards.depth": 0.0}),
            Variant(name="no-progress", fields={"grpo.rewards.progress": False}),
            Variant(name="no-depth-image", fields={"model.depth_input": False}),
        ),
        description="the rows; each is a reproduction of its own",
    )
    seeds: tuple[int, ...] = Field(
        (0,), min_length=1, description="of SFT and GRPO; every trained row is made once a seed"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        names = [variant.name for variant in self.variants]
        if len(set(names)) < len(names) or self.reference not in names:
            raise ValueError(
                f"ablation: names must be unique and hold the reference {self.reference!r}: {names}"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"ablation: seeds must be unique: {list(self.seeds)}")
        return self

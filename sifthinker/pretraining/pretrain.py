"""The miniature's pre-training: both of its models from scratch, on rendered scenes made while it runs.

    python -m sifthinker.pretraining.pretrain policy WORK [--steps N] [--seed S] [--batch B] [--lessons L] [--threads T]
                                                         [--keep FOLDER]
    python -m sifthinker.pretraining.pretrain far    WORK --start FOLDER [--steps N] ...   (from a policy's weights)
    python -m sifthinker.pretraining.pretrain depth  WORK [--steps N] ...

It goes on where WORK/checkpoint.pt stands, with the same losses to the last bit as without an interruption: the
scenes and lessons of a step are drawn from the seed and the step's number. The scenes are rendered by a process of
their own into WORK/pool (training/pool.py), each is used `PASSES` times, and they share no random number with those
of SIF data and benchmarks. WORK/history.jsonl has a line every `LOG` steps, WORK/model the weights of each checkpoint.

Departures from how such models are trained otherwise:

1. Several short conversations share one look at the pictures, exactly (training/packed.py).
2. The policy learns from the scenes' truth what each token of its vision tower shows (`Cells`), in the embeddings of
   the words and numbers that say it, at first that alone; and to attend with some heads to a thing where its name is
   said and where an answer is about it (`Policy._looks`). Without either, 5,929 steps of an earlier recipe had not
   learnt to find a thing by its name; without the names, 8,500 had not. What is added is thrown away.
3. The rate rises, stays, and falls to 0 over the last third, so that a run may be made longer or shorter before it
   falls.
"""

from __future__ import annotations

import argparse
import itertools
import json
import logging
import os
import shutil
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from transformers import AutoModelForDepthEstimation, AutoModelForImageTextToText

from sifthinker.core import depth_maps
from sifthinker.core.errors import UserError
from sifthinker.pretraining import build, lessons, packed_attention, scene_pool
from sifthinker.pretraining.scene_pool import Pool, Rendering, Seen
from sifthinker.scenes import render

logger = logging.getLogger(__name__)

PASSES = 3  # over a block of scenes, with other lessons each time
BLOCK = 8  # shards; fewer where the whole training needs fewer
WARMUP, FALL = 200, 1 / 3  # steps; share of the steps
LOG = 25  # steps between two lines of the history
_LONG = {
    "list": 1.0,
    "where": 1.0,
    "all": 1.0,
    "look": 1.0,
    "say": 0.3,
}  # weight of a token; others are short
_SHORT = 3.0
CELLS, POINTING = 0.3, 0.3  # weights of the losses
_WORDS, _NAMES, _ANSWERS = (0, 2), (1, 3), (2, 3)  # who looks: a layer, and how many of its heads
_AFTER = 0.1  # how much looking counts once a box's first number tells which thing it is
Drawn = list[list[lessons.Lesson]]
Rows = list[list[tuple[list[int], list[int], float]]]
_BLUR = 0.02  # of the numbers that a cell shows
_THIRD = 0.2  # weight of a number's third decimal, which is finer than a token of the vision tower
_FAR, _FARTHEST = 0.7, 320  # share of the answers with positions left out before them, and how many at most
_ASIDES = 0.2  # share of the answers that follow pieces of chains about nothing
_NO_DEPTH = 1 / 8  # of the steps show the photograph alone (model.depth_input: false)


@dataclass(frozen=True, slots=True)
class Recipe:
    """What decides the outcome."""

    what: str
    steps: int
    batch: int  # scenes a step
    lessons: int  # a scene (policy)
    rate: float
    seed: int
    looking: int = 0  # first steps, which train the policy's vision tower alone
    width: int = 224
    height: int = 168
    fewest: int = 2  # solids in a scene
    most: int = 5
    start: str = ""  # a model's folder (far)


RECIPES = {
    "policy": Recipe("policy", steps=10_000, batch=3, lessons=7, rate=1e-3, seed=1, looking=4000),
    "far": Recipe("far", steps=1_400, batch=3, lessons=7, rate=5e-4, seed=2),
    "depth": Recipe("depth", steps=3_000, batch=8, lessons=0, rate=1e-3, seed=1),
}


_KINDS = {"color": list(render.COLORS), "shape": list(render.SHAPES), "size": list(render.SIZES)}


class Cells(nn.Module):
    """What a token of the vision tower shows.

    A thing's colour, shape and size are read off by their words' own embeddings, its box and depth by those of the
    numbers, behind one layer.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        super().__init__()
        self.words = [_word_ids(tokenizer, names) for names in _KINDS.values()]
        self.embedding = [
            model.model.language_model.embed_tokens
        ]  # in a list: the model's, not a part of this
        self.numbers = torch.tensor(
            tokenizer.convert_tokens_to_ids([f"0.{number:02}" for number in range(100)])
        )
        self.scale, self.nothing = nn.Parameter(torch.ones(4)), nn.Parameter(torch.zeros(3))
        self.read = nn.Linear(self.embedding[0].embedding_dim, 5 * self.embedding[0].embedding_dim)

    def loss(self, tokens: torch.Tensor, seen: list[Seen]) -> torch.Tensor:
        """Of the tokens (N, cells, hidden) of the scenes' photographs."""
        table: list[list[int]] = []
        boxes: list[list[float]] = []
        cells = []
        for scene in seen:
            start = len(table)
            for thing in scene.facts["things"]:
                table.append([names.index(thing[key]) for key, names in _KINDS.items()])
                boxes.append([*thing["box"], thing["depth"]])
            table.append([len(names) for names in _KINDS.values()])
            boxes.append([0.0] * 5)
            found = np.array(scene.facts["cells"]).ravel()
            cells.append(np.where(found < 0, len(table) - 1, found + start))
        index = torch.from_numpy(np.concatenate(cells))
        truth, places = torch.tensor(table)[index], torch.tensor(boxes)[index]
        flat = tokens.flatten(0, 1)
        total = flat.new_zeros(())
        for part, words in enumerate(self.words):
            read = flat @ self.embedding[0].weight[words].T * self.scale[part]
            read = torch.cat([read, self.nothing[part].expand(len(flat), 1)], dim=1)
            total = total + functional.cross_entropy(read, truth[:, part])
        there = truth[:, 0] < len(render.COLORS)
        read = self.read(flat[there]).unflatten(1, (5, -1)) @ self.embedding[0].weight[self.numbers].T
        away = (places[there][..., None] - (torch.arange(100) + 0.5) / 100) / _BLUR
        wanted = (-(away**2) / 2).softmax(-1)
        return total + functional.cross_entropy(read.flatten(0, 1) * self.scale[3], wanted.flatten(0, 1))


def _word_ids(tokenizer: Any, words: list[str]) -> torch.Tensor:
    ids = [tokenizer(f" {word}", add_special_tokens=False)["input_ids"] for word in words]
    return torch.tensor(ids).squeeze(1)


class Looks:
    """Tokens, the places in their rows that they are to look at, and how much each counts."""

    def __init__(self, length: int) -> None:
        self.length = length
        self.tokens, self.places, self.weights = list[int](), list[list[int]](), list[float]()

    def add(self, token: int, places: list[int], weight: float) -> None:
        if places:  # some answers are about nothing, and some things fill no cell
            self.tokens.append(token)
            self.places.append(places)
            self.weights.append(weight)

    def asked(self, layer: int, heads: int) -> packed_attention.Look:
        return packed_attention.Look(layer, heads, torch.tensor(self.tokens, dtype=torch.long))

    def missed(self, looked: torch.Tensor) -> torch.Tensor:
        """How little of the attention (tokens, heads, places) is where it should be: a mean of minus its logarithms."""
        if not self.tokens:
            return looked.new_zeros(())
        there = torch.zeros(len(self.tokens), self.length, dtype=torch.bool)
        for number, places in enumerate(self.places):
            there[number, places] = True
        weights = torch.tensor(self.weights)
        mass = looked.masked_fill(~there[:, None], -torch.inf).logsumexp(-1).mean(1)
        return -(mass * weights).sum() / weights.sum()


class Policy:
    """The policy's training: lessons."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model, self.processor = self._begun()
        self.packer = packed_attention.Packer(self.model, self.processor, recipe.width, recipe.height)
        ids = self.processor.tokenizer.convert_tokens_to_ids
        self.openings = {ids(text) for text in build.OPENINGS}
        self.adjectives = self._meanings({"color": render.COLORS, "size": render.SIZES})
        self.nouns = self._meanings({"shape": render.SHAPES}) | self._meanings({"shape": render.SHAPES}, "s")
        self.nouns |= {int(token): {} for token in _word_ids(self.processor.tokenizer, ["object", "objects"])}
        self.hundredths = torch.tensor(ids([f"0.{number:02}" for number in range(100)]))
        torch.manual_seed(recipe.seed)
        self.extra = Cells(self.model, self.processor.tokenizer)
        self.model.train()

    def _begun(self) -> tuple[Any, Any]:
        return build.build_policy(self.recipe.seed)

    def loss(
        self, seen: list[Seen], rng: np.random.Generator, step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        depth_input = bool(rng.random() >= _NO_DEPTH)
        pictures = [scene.image for scene in seen]
        if step < self.recipe.looking:
            tokens = packed_attention.look(self.model, self.packer.pixels(pictures), self.packer.grid)
            cells = self.extra.loss(tokens, seen)
            return cells, {"cells": cells.item()}
        if depth_input:
            palette = depth_maps.palette()
            pictures += [palette[scene.depth] for scene in seen]
        tokens = packed_attention.look(self.model, self.packer.pixels(pictures), self.packer.grid)
        cells = self.extra.loss(tokens[: len(seen)], seen)
        by_row = tokens.view(1 + depth_input, len(seen), *tokens.shape[1:]).transpose(0, 1)
        drawn = [lessons.draw(scene, rng, self.recipe.lessons) for scene in seen]
        rows = self._rows(drawn)
        batch = self.packer.rows(rows, depth_input)
        text, pointing = self._learnt(seen, drawn, rows, by_row, batch)
        total = text + CELLS * cells + POINTING * pointing
        return total, {"text": text.item(), "cells": cells.item(), "pointing": pointing.item()}

    def _rows(self, drawn: Drawn) -> Rows:
        return [
            [(*self.packer.conversation(x.asked, x.answer), _LONG.get(x.kind, _SHORT)) for x in row]
            for row in drawn
        ]

    def _learnt(
        self,
        seen: list[Seen],
        drawn: Drawn,
        rows: Rows,
        by_row: torch.Tensor,
        batch: dict[str, torch.Tensor],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The losses of what is said and of where is looked; `by_row` is (scenes, pictures, tokens, hidden)."""
        words, names, answers = self._looks(seen, drawn, rows, by_row.shape[1], batch)
        found, (at_words, at_names, at_answers) = packed_attention.logits(
            self.model,
            by_row.flatten(1, 2),
            batch,
            [words.asked(*_WORDS), names.asked(*_NAMES), answers.asked(*_ANSWERS)],
        )
        losses = functional.cross_entropy(found, batch["targets"], reduction="none")
        targets, weights = batch["targets"], batch["weights"].clone()
        weights[1:][torch.isin(targets[:-1], self.hundredths)] *= _THIRD
        text = (losses * weights).sum() / weights.sum()
        pointing = words.missed(at_words) + names.missed(at_names) + answers.missed(at_answers)
        return text, pointing

    def _meanings(self, words: Mapping[str, Iterable[str]], ending: str = "") -> dict[int, dict[str, str]]:
        """What a word's token says of a thing."""
        return {
            int(token): {key: value}
            for key, values in words.items()
            for value, token in zip(
                values,
                _word_ids(self.processor.tokenizer, [value + ending for value in values]),
                strict=True,
            )
        }

    def _looks(
        self, seen: list[Seen], drawn: Drawn, rows: Rows, pictures: int, batch: dict[str, torch.Tensor]
    ) -> tuple[Looks, Looks, Looks]:
        """Who is to look where, a layer each: a noun at its adjectives, at the things that it names, an answer at its.

        A thing is looked at where the tokens of the pictures show it; an answer may look at the noun that names just
        what it is about instead, which has found it by then.
        """
        length = batch["ids"].shape[1]
        image = torch.nonzero(batch["ids"][0] == self.model.config.image_token_id).squeeze(1)
        words, names, answers = Looks(length), Looks(length), Looks(length)
        sources = iter(batch["sources"].tolist())
        for scene, lesson_row, row in zip(seen, drawn, rows, strict=True):
            cells = np.tile(np.array(scene.facts["cells"]).ravel(), pictures)
            for lesson, (asked, answer, _) in zip(lesson_row, row, strict=True):
                source = next(sources)
                named: dict[frozenset[int], int] = {}  # things: the noun's place in the row
                for at, described, things in self._phrases(asked, scene.facts["things"]):
                    noun = source - (len(asked) - 1) + at
                    words.add(noun, [(noun - back) % length for back in range(1, described + 1)], 1.0)
                    names.add(noun, image[np.isin(cells, list(things))].tolist(), 1.0)
                    named[things] = noun % length
                box, since = -1, 0
                for number, token in enumerate(answer):
                    source = next(sources) if number else source
                    opens = token in self.openings
                    box, since = box + opens, 0 if opens else since + 1
                    about = lesson.about[max(box, 0)] if lesson.about else ()
                    there = image[np.isin(cells, about)].tolist()
                    if there and frozenset(about) in named:
                        there.append(named[frozenset(about)])
                    answers.add(source, there, 1.0 if since < 2 else _AFTER)
        return words, names, answers

    def _phrases(
        self, asked: list[int], things: list[dict[str, Any]]
    ) -> Iterator[tuple[int, int, frozenset[int]]]:
        """The phrases that name some of the things: the noun's place, how many adjectives, which things."""
        for at, token in enumerate(asked):
            if token not in self.nouns:
                continue
            meant, first = dict(self.nouns[token]), at
            while first and asked[first - 1] in self.adjectives:
                first -= 1
                meant |= self.adjectives[asked[first]]
            found = frozenset(
                index
                for index, thing in enumerate(things)
                if all(thing[key] == value for key, value in meant.items())
            )
            if meant and found:
                yield at, at - first, found


class Far(Policy):
    """The policy's second training: answers that stand far from their questions, as at the end of a chain.

    After the first an answer stood next to its question always; chains learnt from there put 85 of 100 boxes on their
    things and ended in answers to no question. Here positions are left out before most answers, some follow pieces of
    chains about nothing (which are not learnt), and some follow the boxes of what is asked about.
    """

    def _begun(self) -> tuple[Any, Any]:
        _, processor = super()._begun()
        model = AutoModelForImageTextToText.from_pretrained(
            self.recipe.start, trust_remote_code=False, use_safetensors=True, dtype=torch.float32
        )
        model.config.toy = getattr(model.config, "miniature", "") or model.config.toy  # until `keep`
        return model, processor

    def loss(
        self, seen: list[Seen], rng: np.random.Generator, step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        depth_input = bool(rng.random() >= _NO_DEPTH)
        pictures = [scene.image for scene in seen]
        if depth_input:
            palette = depth_maps.palette()
            pictures += [palette[scene.depth] for scene in seen]
        tokens = packed_attention.look(self.model, self.packer.pixels(pictures), self.packer.grid)
        by_row = tokens.view(1 + depth_input, len(seen), *tokens.shape[1:]).transpose(0, 1)
        drawn = [lessons.draw(scene, rng, self.recipe.lessons, lessons.FAR) for scene in seen]
        rows = [
            [(asked + self._aside(rng), answer, weight) for asked, answer, weight in row]
            for row in self._rows(drawn)
        ]
        gaps = (int(rng.integers(_FARTHEST)) * int(rng.random() < _FAR) for _ in itertools.count())
        batch = self.packer.rows(rows, depth_input, gaps)
        text, pointing = self._learnt(seen, drawn, rows, by_row, batch)
        return text + POINTING * pointing, {"text": text.item(), "pointing": pointing.item()}

    def _aside(self, rng: np.random.Generator) -> list[int]:
        if rng.random() >= _ASIDES:
            return []
        said = lessons.aside(rng).removesuffix("\n") + "\n"
        return list(self.packer.processor.tokenizer(said, add_special_tokens=False)["input_ids"])


class Depth:
    """The depth model's training: the exact depth of every pixel."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.model, self.processor = build.build_depth(recipe.seed)
        self.extra = nn.Identity()
        self.mean = np.array(self.processor.image_mean, dtype=np.float32)
        self.std = np.array(self.processor.image_std, dtype=np.float32)
        self.model.train()

    def loss(
        self, seen: list[Seen], rng: np.random.Generator, step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        images = np.stack([scene.image for scene in seen]).astype(np.float32) / 255
        pixels = torch.from_numpy(((images - self.mean) / self.std).transpose(0, 3, 1, 2).copy())
        truth = torch.from_numpy(np.stack([scene.depth for scene in seen])).float() / 255
        found = self.model(pixel_values=pixels).predicted_depth
        error = (found - truth).abs().mean()
        slopes = sum(
            ((found - truth).diff(dim=dim)).abs().mean() for dim in (1, 2)
        )  # edges stay sharp, as in Depth Anything's gradient loss
        return error + 2 * slopes, {"error": error.item()}


TRAININGS: dict[str, Callable[[Recipe], Policy | Depth]] = {
    "policy": Policy,
    "far": Far,
    "depth": Depth,
}


def train(work: Path, recipe: Recipe, save_minutes: float = 3.0, stop_after: int | None = None) -> Path:
    """Trains, or goes on, up to the recipe's steps (or `stop_after`, as an interruption); the model's folder.

    Raises:
        UserError: the folder holds a training by another recipe; more `steps` are allowed before the rate falls.
    """
    work.mkdir(parents=True, exist_ok=True)
    training = TRAININGS[recipe.what](recipe)
    modules = nn.ModuleList([training.model, training.extra])
    matrices = [p for p in modules.parameters() if p.ndim > 1]
    others = [p for p in modules.parameters() if p.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.01}, {"params": others, "weight_decay": 0.0}]
    optimiser = torch.optim.AdamW(groups, lr=recipe.rate, betas=(0.9, 0.98))
    first = _resume(work, recipe, modules, optimiser)
    last = min(recipe.steps, stop_after or recipe.steps)
    scenes = Pool(
        work / "pool",
        recipe.seed,
        width=recipe.width,
        height=recipe.height,
        fewest=recipe.fewest,
        most=recipe.most,
    )
    rendering = Rendering(scenes, _needed(recipe))
    try:
        order = _Order(scenes, recipe, rendering)
        started = saved = time.monotonic()
        recent: list[dict[str, float]] = []
        for step in range(first, last):
            rng = np.random.default_rng((recipe.seed, 77, step))
            for group in optimiser.param_groups:
                group["lr"] = recipe.rate * _share(step, recipe)
            loss, parts = training.loss(order.scenes(step), rng, step)
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(modules.parameters(), 1.0)
            optimiser.step()
            recent.append({"loss": loss.item(), **parts})
            now, done = time.monotonic(), step + 1
            if done % LOG == 0 or done in (recipe.looking, last):
                _log(work, done, recipe, recent, (now - started) / (done - first))
                recent.clear()
            if now - saved > save_minutes * 60 or done == last:
                _save(work, recipe, modules, optimiser, done, training)
                saved = time.monotonic()
    finally:
        rendering.stop()
    return work / "model"


def keep(what: str, trained: Path, folder: Path) -> None:
    """Copies a trained model under the name of the miniature, its weights rounded to 16 bits (float16)."""
    kind = AutoModelForDepthEstimation if what == "depth" else AutoModelForImageTextToText
    model = kind.from_pretrained(trained, trust_remote_code=False, use_safetensors=True, dtype=torch.float16)
    model.config.miniature, model.config.toy = model.config.toy, ""  # no random toy any more
    model.save_pretrained(folder)
    for file in trained.iterdir():
        if file.name not in ("config.json", "model.safetensors"):
            shutil.copy(file, folder)


class _Order:
    """Which scenes a step sees: blocks of shards in order, each shuffled anew for every pass over it."""

    def __init__(self, scenes: Pool, recipe: Recipe, rendering: Rendering) -> None:
        self.pool, self.recipe, self.rendering = scenes, recipe, rendering
        self.block, self.loaded = -1, list[Seen]()
        self.shards = min(BLOCK, -(-_needed(recipe) // scene_pool.SHARD))
        self.size = self.shards * scene_pool.SHARD

    def scenes(self, step: int) -> list[Seen]:
        start = step * self.recipe.batch
        return [self._scene(number) for number in range(start, start + self.recipe.batch)]

    def _scene(self, number: int) -> Seen:
        turn, place = divmod(number, self.size)
        block = turn // PASSES
        if block != self.block:
            shards = range(block * self.shards, (block + 1) * self.shards)
            self.block, self.loaded = (
                block,
                [seen for shard in shards for seen in scene_pool.read(self.pool, shard, self.rendering)],
            )
        order = np.random.default_rng((self.recipe.seed, 78, turn)).permutation(self.size)
        return self.loaded[order[place]]


def _needed(recipe: Recipe) -> int:
    """Scenes of the whole training, whole blocks of them where it has several."""
    scenes = -(-recipe.steps * recipe.batch // PASSES)
    block = BLOCK * scene_pool.SHARD
    return scenes if scenes <= block else -(-scenes // block) * block


def _share(step: int, recipe: Recipe) -> float:
    """Of the highest rate."""
    fall = recipe.steps * (1 - FALL)
    begun = step - recipe.looking if step >= recipe.looking else step
    return min((begun + 1) / min(WARMUP, recipe.steps), 1.0, (recipe.steps - step) / (recipe.steps - fall))


def _resume(work: Path, recipe: Recipe, modules: nn.Module, optimiser: torch.optim.Optimizer) -> int:
    path = work / "checkpoint.pt"
    if not path.exists():
        (work / "history.jsonl").unlink(missing_ok=True)
        return 0
    state = torch.load(path, weights_only=True)
    earlier, now = state["recipe"], asdict(recipe)
    changed = [key for key in now if now[key] != earlier.get(key)]
    falling = state["step"] > earlier["steps"] * (1 - FALL)
    if changed and (changed != ["steps"] or falling or state["step"] > recipe.steps):
        found = ", ".join(f"{key} {earlier.get(key)} -> {now[key]}" for key in changed)
        raise UserError(
            f"{path}: was made by another recipe ({found}); only steps may change, before the rate falls"
        )
    modules.load_state_dict(state["modules"])
    optimiser.load_state_dict(state["optimiser"])
    lines = (work / "history.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
    kept = [line for line in lines if json.loads(line)["step"] <= state["step"]]
    (work / "history.jsonl").write_text("".join(kept), encoding="utf-8")
    logger.info("%s: goes on at step %d", work, state["step"])
    return int(state["step"])


def _save(
    work: Path,
    recipe: Recipe,
    modules: nn.Module,
    optimiser: torch.optim.Optimizer,
    step: int,
    training: Policy | Depth,
) -> None:
    state = {"recipe": asdict(recipe), "step": step, "modules": modules.state_dict()}
    temporary = work / "checkpoint.tmp"
    torch.save({**state, "optimiser": optimiser.state_dict()}, temporary)
    training.model.save_pretrained(work / "model")
    training.processor.save_pretrained(work / "model")
    temporary.replace(work / "checkpoint.pt")


def _log(work: Path, step: int, recipe: Recipe, recent: list[dict[str, float]], seconds: float) -> None:
    row = {key: statistics.fmean(entry[key] for entry in recent) for key in recent[0]}
    with (work / "history.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"step": step, "scenes": step * recipe.batch, **row}) + "\n")
    left = (recipe.steps - step) * seconds / 60
    shown = ", ".join(f"{key} {value:.4f}" for key, value in row.items())
    logger.info("step %d of %d: %s; %.3f s a step, %.0f min left", step, recipe.steps, shown, seconds, left)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sifthinker.pretraining.pretrain", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("what", choices=sorted(TRAININGS))
    parser.add_argument(
        "work", type=Path, help="folder of checkpoints, history and scenes; a new one begins anew"
    )
    for name in ("steps", "batch", "lessons", "seed", "looking", "fewest", "most"):
        parser.add_argument(f"--{name}", type=int, help="another value than the recipe's")
    parser.add_argument("--rate", type=float, help="another value than the recipe's")
    parser.add_argument("--start", help="folder of the model that `far` starts from", default="")
    parser.add_argument("--keep", type=Path, help="folder for the trained model, in 16 bits")
    parser.add_argument("--save-minutes", type=float, default=3.0, help="between checkpoints")
    parser.add_argument("--threads", type=int, default=1, help="of torch; more than one a core is slower")
    given = parser.parse_args(arguments)
    if bool(given.start) != (given.what == "far"):
        parser.error("--start is for `far`, which needs it: the folder that `policy` was kept in")
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    torch.set_num_threads(given.threads)
    values = asdict(RECIPES[given.what])
    values |= {name: value for name in values if (value := getattr(given, name, None)) is not None}
    try:
        made = train(given.work, Recipe(**values), given.save_minutes)
        if given.keep:
            keep(given.what, made, given.keep)
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    sys.exit(main())

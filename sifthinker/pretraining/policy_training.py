"""The policy's trainings: lessons about scenes, then answers that stand far from their questions, then lists."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.nn import functional
from transformers import AutoModelForImageTextToText

from sifthinker.core import depth_maps
from sifthinker.pretraining import build, drawing, lessons, packed_attention
from sifthinker.pretraining.losses import Cells, Looks, word_ids
from sifthinker.pretraining.recipe import Recipe
from sifthinker.pretraining.scene_pool import Seen
from sifthinker.scenes import render

# The weight of an answer's token by the kind of its lesson; the answers of all other kinds are short.
_LONG = dict.fromkeys(("list", "where", "all", "beside", "look", "next", "said", "begun"), 1.0) | {"say": 0.3}
_STEPS = (
    "next",
    "said",
)  # kinds of lessons that stand right after what they go on from, and both far from the rest
_SHORT = 3.0
CELLS, POINTING = 0.3, 0.3  # weights of the losses
_WORDS, _NAMES, _ANSWERS = (0, 2), (1, 3), (2, 3)  # who looks: a layer, and how many of its heads
_AFTER = 0.1  # how much looking counts once a box's first number tells which thing it is
_SAID_BEFORE = 3  # tokens from a noun to the edge: " from", " " and the edge
_SEEKS = 2.0  # how much the look for one of several counts
_THIRD = 0.2  # weight of a number's third decimal, which is finer than a token of the vision tower
_FAR, _FARTHEST = 0.7, 320  # share of the answers with positions left out before them, and how many at most
_FARTHEST_LOOK = 200  # the same before a single look's question: five looks and what is said between them
_FOLLOWS, _WHICH = 4.0, 2.0  # more weight where it is decided whether a box follows, and which
_OFF = 2  # hundredths by which the boxes and depths that a list goes on from are off, at most
_ASIDES = 0.2  # share of the answers that follow pieces of chains about nothing
_NO_DEPTH = 1 / 8  # share of the steps that show the photograph alone (model.depth_input: false)

Drawn = list[list[lessons.Lesson]]  # by scene
Rows = list[
    list[tuple[list[int], list[int], float]]
]  # by scene: the tokens of question and answer, a token's weight


class Policy:
    """The policy's first training: lessons about scenes."""

    def __init__(self, recipe: Recipe) -> None:
        """A new model of the recipe's seed, or the one that the training starts from."""
        self.recipe = recipe
        self.model, self.processor = self._begun()
        self.packer = packed_attention.Packer(self.model, self.processor, recipe.width, recipe.height)
        ids = self.processor.tokenizer.convert_tokens_to_ids
        self.openings = {ids(text) for text in build.OPENINGS}
        self.adjectives = self._meanings({"color": render.COLORS, "size": render.SIZES})
        self.nouns = self._meanings({"shape": render.SHAPES}) | self._meanings({"shape": render.SHAPES}, "s")
        self.nouns |= {int(token): {} for token in word_ids(self.processor.tokenizer, ["object", "objects"])}
        self.no_more, self.looked = (
            self.processor.tokenizer(text)["input_ids"][0] for text in (build.NO_MORE, build.LOOKED)
        )
        self.hundredths = torch.tensor(ids([f"0.{number:02}" for number in range(100)]))
        self.numbers = set(self.hundredths.tolist())
        torch.manual_seed(recipe.seed)
        self.extra = Cells(self.model, self.processor.tokenizer)
        self.model.train()

    def _begun(self) -> tuple[Any, Any]:
        return build.build_policy(self.recipe.seed)

    def loss(
        self, seen: list[Seen], rng: np.random.Generator, step: int
    ) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of some scenes at a step, and its parts for the history."""
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
        drawn = [drawing.draw(scene, rng, self.recipe.lessons) for scene in seen]
        rows = self._rows(drawn)
        batch = self.packer.rows(rows, depth_input)
        text, pointing = self._learnt(seen, drawn, rows, by_row, batch)
        total = text + CELLS * cells + POINTING * pointing
        return total, {"text": text.item(), "cells": cells.item(), "pointing": pointing.item()}

    def _rows(self, drawn: Drawn) -> Rows:
        return [
            [(*self.packer.conversation(x.asked, x.answer, x.said), _LONG.get(x.kind, _SHORT)) for x in row]
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
        weights = self._weights(batch)
        text = (losses * weights).sum() / weights.sum()
        pointing = words.missed(at_words) + names.missed(at_names) + answers.missed(at_answers)
        return text, pointing

    def _weights(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """How much each of the batch's targets counts."""
        weights = batch["weights"].clone()
        weights[1:][torch.isin(batch["targets"][:-1], self.hundredths)] *= _THIRD
        return weights

    def _meanings(self, words: Mapping[str, Iterable[str]], ending: str = "") -> dict[int, dict[str, str]]:
        """What a word's token says of a thing."""
        return {
            int(token): {key: value}
            for key, values in words.items()
            for value, token in zip(
                values,
                word_ids(self.processor.tokenizer, [value + ending for value in values]),
                strict=True,
            )
        }

    def _looks(
        self, seen: list[Seen], drawn: Drawn, rows: Rows, pictures: int, batch: dict[str, torch.Tensor]
    ) -> tuple[Looks, Looks, Looks]:
        """Which tokens are to look where, in three layers.

        First a noun looks at its adjectives, then it looks at the things that it names, and then an answer looks at
        the things that it is about. A thing is where the tokens of the pictures show it. An answer may instead look at
        a noun that names exactly the things it is about, since that noun has found them by then.
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
                start = source - (len(asked) - 1)
                for at, said, things in self._seeking(lesson, asked, scene.facts["things"]):
                    place = (start + at) % length
                    words.add(start + at, [(start + word) % length for word in said], 1.0)
                    if things is None:
                        continue
                    there = image[np.isin(cells, list(things))].tolist() if things else [place]
                    names.add(start + at, there, 1.0 if lesson.kind != "next" else _SEEKS)
                    named[things] = place
                box, since = -1, 0
                for number, token in enumerate(answer):
                    source = next(sources) if number else source
                    opens = token in self.openings
                    box, since = box + opens, 0 if opens else since + 1
                    about = lesson.about[max(box, 0)] if lesson.about else ()
                    there = image[np.isin(cells, about)].tolist()
                    if (there or not about) and frozenset(about) in named:
                        there.append(named[frozenset(about)])
                    answers.add(source, there, 1.0 if since < 2 else _AFTER)
        return words, names, answers

    def _seeking(
        self, lesson: lessons.Lesson, asked: list[int], things: list[dict[str, Any]]
    ) -> Iterator[tuple[int, list[int], frozenset[int] | None]]:
        """The words that look for things: the word's place, the words that it does so by, and the things.

        Without things it finds that there are none, and looks at itself; None leaves it free.
        """
        for at, described, named in self._phrases(asked, things):
            yield at, [at - back for back in range(1, described + 1)], named

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

    In the first training every answer stands next to its question. Chains that were learnt from there put 85 of 100
    boxes on their things, but ended in answers to no question. Here positions are left out before most answers. Some
    answers follow pieces of chains about nothing, which are not learnt, and some the boxes of what is asked about.
    """

    shares: Mapping[str, float] = drawing.FAR
    pointing = POINTING  # weight of where is looked

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
        """The loss of some scenes at a step, and its parts for the history."""
        depth_input = bool(rng.random() >= _NO_DEPTH)
        pictures = [scene.image for scene in seen]
        if depth_input:
            palette = depth_maps.palette()
            pictures += [palette[scene.depth] for scene in seen]
        tokens = packed_attention.look(self.model, self.packer.pixels(pictures), self.packer.grid)
        by_row = tokens.view(1 + depth_input, len(seen), *tokens.shape[1:]).transpose(0, 1)
        drawn = [drawing.draw(scene, rng, self.recipe.lessons, self.shares) for scene in seen]
        rows = [
            [
                (asked + (self._aside(rng) if lesson.kind not in _STEPS else []), answer, weight)
                for lesson, (asked, answer, weight) in zip(lesson_row, row, strict=True)
            ]
            for lesson_row, row in zip(drawn, self._rows(drawn), strict=True)
        ]
        away = [self._away(lesson.kind, rng) for lesson_row in drawn for lesson in lesson_row]
        gaps, ahead = zip(*away, strict=True)
        batch = self._given(self.packer.rows(rows, depth_input, iter(gaps), iter(ahead)), rng)
        text, pointing = self._learnt(seen, drawn, rows, by_row, batch)
        return text + self.pointing * pointing, {"text": text.item(), "pointing": pointing.item()}

    def _away(self, kind: str, rng: np.random.Generator) -> tuple[int, int]:
        """Positions left out before an answer, and before its question, which only a chain's single step stands next to."""
        farthest = _FARTHEST_LOOK if kind in _STEPS else _FARTHEST
        gap = int(rng.integers(farthest)) * int(rng.random() < _FAR)
        return (0, gap) if kind in _STEPS else (gap, 0)

    def _given(self, batch: dict[str, torch.Tensor], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        """The batch as the model is given it."""
        return batch

    def _aside(self, rng: np.random.Generator) -> list[int]:
        if rng.random() >= _ASIDES:
            return []
        said = lessons.aside(rng).removesuffix("\n") + "\n"
        return list(self.packer.processor.tokenizer(said, add_special_tokens=False)["input_ids"])


class Lists(Far):
    """The policy's third training: all things of a kind, and all that are beside one, as boxes in a fixed order.

    After the second, "Where are all cubes?" got the right number of boxes in 16 of 100 scenes with two, and in none with
    three: such lessons were few, mostly about one thing, and in no order that could be learnt. Here they are nearest
    first. What the model has to decide, whether another box follows and which, is two tokens of fourteen; they
    weigh more.

    What it goes on from is off by up to `_OFF`, as its own boxes are, while what it is to say stays true.
    """

    shares = drawing.LISTS

    def _given(self, batch: dict[str, torch.Tensor], rng: np.random.Generator) -> dict[str, torch.Tensor]:
        ids = batch["ids"].flatten().clone()
        said = batch["sources"] + 1  # the places of the answers' tokens; the targets are another tensor
        numbers = {int(token): value for value, token in enumerate(self.hundredths)}
        for place, token in zip(said.tolist(), ids[said].tolist(), strict=True):
            if token in numbers:
                away = numbers[token] + int(rng.integers(-_OFF, _OFF + 1))
                ids[place] = self.hundredths[min(max(away, 0), len(self.hundredths) - 1)]
        return {**batch, "ids": ids.view_as(batch["ids"])}

    def _weights(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        weights, targets = super()._weights(batch), batch["targets"]
        ids = self.processor.tokenizer.convert_tokens_to_ids
        opened = torch.isin(targets, torch.tensor(sorted(self.openings)))
        weights[opened | (targets == ids("}]"))] *= _FOLLOWS
        weights[1:][opened[:-1]] *= _WHICH
        return weights


class Next(Lists):
    """The policy's fourth training: the next thing of a kind to the right of one, the single step of looking in turn.

    After the third, the model knew whether a list goes on, and not with what: the second box of a kind began on a thing
    of another kind in 26 of 100 lists, since the kind is said once, before all boxes. Here the kind and the box to go on
    from stand right before each look, in the model's own turn (`lessons.Lesson.said`).
    """

    shares = drawing.NEXT
    pointing = 1.0  # which of several is decided by where is looked

    def _seeking(
        self, lesson: lessons.Lesson, asked: list[int], things: list[dict[str, Any]]
    ) -> Iterator[tuple[int, list[int], frozenset[int] | None]]:
        """The last number looks for the one thing that is asked for, or finds none; the noun before it is left free.

        Which is the next depends on where the one before is. A noun cannot know that when it looks: of all the numbers
        before it, it would have to find the one that is a left edge, and numbers learn in the same layer what they are.
        The last number is the edge itself, and gathers noun and adjectives in the layer before.
        """
        found = list(super()._seeking(lesson, asked, things))
        if lesson.kind == "said":  # its words were looked for before
            yield from ((at, said, None) for at, said, _ in found)
            return
        if lesson.kind != "next":
            yield from found
            return
        meant, edge = (
            frozenset(lesson.among),
            max(at for at, token in enumerate(asked) if token in self.numbers),
        )
        if len(meant) == len(things) and meant not in [named for *_, named in found]:  # any object
            found.append((edge - _SAID_BEFORE, [], meant))
        last = max((at for at, _, named in found if named == meant), default=None)
        for at, said, named in found:
            yield at, said, named if at != last else None
            if at == last:
                yield edge, [*said, at], frozenset(index for about in lesson.about for index in about)

    def _weights(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        weights = super()._weights(batch)
        targets = batch["targets"]
        weights[(targets == self.no_more) | (targets == self.looked)] *= _FOLLOWS
        return weights

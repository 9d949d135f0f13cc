"""The miniature's pre-training: what it is taught, on which scenes, exactly how, and that it resumes."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from sifthinker import scenes
from sifthinker.core import depth_maps, prompts
from sifthinker.core.errors import UserError
from sifthinker.llm.standin.replies import chain
from sifthinker.models.processors import encode, load_processor
from sifthinker.pretraining import (
    build,
    drawing,
    held_out,
    lessons,
    loop,
    losses,
    packed_attention,
    policy_training,
    pretrain,
    recipe,
    scene_pool,
)
from sifthinker.scenes import render

SIZE = {"width": 112, "height": 84}  # pixels; a quarter of the real ones
SMALL = replace(recipe.RECIPES["policy"], steps=24, batch=2, lessons=3, **SIZE)


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> list[scene_pool.Seen]:
    rendered = scene_pool.Pool(tmp_path_factory.mktemp("pool"), seed=1, **SIZE)
    scene_pool._render((rendered, 0))
    return scene_pool.read(rendered, 0)


def test_no_scene_of_one_stream_is_a_scene_of_another() -> None:
    found: dict[tuple[render.Solid, ...], str] = {}
    for stream in ("train", "vstar", "refcoco", "spatialbench", "pretrain", "pretrain-held-out", "sif"):
        for seed in (0, 1):
            for (scene, _), _ in zip(scenes.stream(stream, seed, 64, 64), range(10), strict=False):
                assert found.setdefault(scene.view.solids, f"{stream} {seed}") == f"{stream} {seed}"
    assert len(found) == 7 * 2 * 10


@pytest.mark.parametrize(
    "text",
    [
        chain(
            [
                '[{"bbox_2d": [0.0, 0.0, 1.0, 1.0], "depth": 0.512}]',
                '[{"bbox_2d": [0.12, 0.345, 0.6, 0.758], "depth": 0.3}, {"bbox_2d": [0.1, 0.2, 0.3, 0.4], "depth": 0.67}]',
            ],
            "red",
            b"x",
        ),
        prompts.THINK_SUFFIX,
        prompts.REC_QUESTION,
        prompts.ANNOTATOR_SYSTEM,
        "0.5, 12, 0.1234  0.12,0.12\n\n0.",
        "Grüße, 世界 — {unusual}\t",
    ],
)
def test_the_tokenizer_gives_any_text_back(text: str) -> None:
    tokenizer = build.build_tokenizer()
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


def test_a_box_and_its_depth_take_few_tokens() -> None:
    tokenizer = build.build_tokenizer()
    text = '[{"bbox_2d": [0.312, 0.345, 0.677, 0.758], "depth": 0.301}]'
    assert len(tokenizer(text)["input_ids"]) == 3 + 5 * 2  # of JSON, and of each number with what follows it


def test_every_lesson_is_true_of_its_scene(drawn: list[scene_pool.Seen]) -> None:
    seen, rng = drawn[0], np.random.default_rng(0)
    things = seen.facts["things"]
    kinds = set()
    drawn_lessons = [
        lesson
        for shares in (drawing.SHARES, drawing.FAR, drawing.LISTS)
        for _ in range(40)
        for lesson in drawing.draw(seen, rng, 7, shares)
    ]
    for lesson in drawn_lessons:
        kinds.add(lesson.kind)
        boxes = [[round(v, 3) for v in thing["box"]] for thing in things]
        if lesson.kind in (
            "list",
            "where",
            "all",
            "beside",
            "look",
        ):  # every box is of the thing that it is said to be of
            regions = [row["bbox_2d"] for row in json.loads(lesson.answer)]
            assert regions == [boxes[index] for (index,) in lesson.about]
        if lesson.kind == "list":
            listed = json.loads(lesson.answer)
            assert [row["depth"] for row in listed] == sorted(round(thing["depth"], 3) for thing in things)
        elif lesson.kind in ("where", "all", "beside", "look"):
            depths = [row["depth"] for row in json.loads(lesson.answer)]
            assert depths == sorted(depths)  # nearest first
            if lesson.kind == "all":
                words = lesson.asked.removeprefix("Where are all ").removesuffix("s?").split()
                fitting = [t for t in things if {*words} - {"object"} <= {t["color"], t["shape"]}]
                assert len(depths) == len(fitting)
            if lesson.kind == "beside":
                place = lesson.asked.removeprefix("Which objects are ").removesuffix("?")
                assert len(depths) == len(dict(seen.facts["beside"])[place])
        elif lesson.kind == "then":
            looked, answer = lesson.answer.split("\n")
            regions = [row["bbox_2d"] for row in json.loads(looked)]
            assert regions == [boxes[index] for (index,) in lesson.about]
            asked = lesson.asked.removeprefix("Where to look for this: ").removesuffix(" Then answer it.")
            known = [q for q in seen.facts["questions"] if asked.startswith(q["text"][:20])]
            assert answer in {*"ABCD", *(q["answer"] for q in known)}
        elif lesson.kind == "what":
            (thing,) = (t for t in things if f"{[round(v, 3) for v in t['box']]}" in lesson.asked)
            assert lesson.answer == f"{thing['size']} {thing['color']} {thing['shape']}"
        elif lesson.kind == "say":
            assert lesson.asked == f"Say: {lesson.answer}" and not lesson.about
        elif lesson.kind == "deep":
            box = json.loads(lesson.asked.removeprefix("How deep is ").removesuffix("?"))
            exact = depth_maps.box_depth((1 - seen.depth / 255).astype(np.float32), box)
            assert float(lesson.answer) == round(exact, 3)
    assert {"list", "where", "all", "beside", "look", "what", "deep", "say", "color", "then"} <= kinds
    for shares in (drawing.SHARES, drawing.FAR, drawing.LISTS):
        assert sum(shares.values()) == pytest.approx(1)


@pytest.mark.parametrize(("depth_input", "block"), [(True, 70), (False, 70), (True, 1)])
def test_packed_conversations_cost_what_the_plain_model_says(
    drawn: list[scene_pool.Seen], depth_input: bool, block: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Blocks of several conversations, and of one each."""
    monkeypatch.setattr(packed_attention, "_BLOCK", block)
    model, processor = build.build_policy(seed=0)
    packer = packed_attention.Packer(model.eval(), processor, **SIZE)
    seen, rng = drawn[0], np.random.default_rng(1)
    asked = drawing.draw(seen, rng, 5)
    pictures = [seen.image, depth_maps.palette()[seen.depth]][: 1 + depth_input]
    processor.image_processor.size = {"shortest_edge": 28 * 28, "longest_edge": 28 * 28 * 1000}
    batch = packer.rows([[(*packer.conversation(x.asked, x.answer), 1.0) for x in asked]], depth_input)
    _, (found_blocks,) = packed_attention.blocks(batch["part"])
    assert len(found_blocks) == len(asked) if block == 1 else 1 < len(found_blocks) < len(asked)
    with torch.no_grad():
        tokens = packed_attention.look(model, packer.pixels(pictures), packer.grid).flatten(0, 1)[None]
        looks = [
            packed_attention.Look(2, 2, batch["sources"]),
            packed_attention.Look(1, 3, batch["sources"][:1]),
        ]
        found, (looked, first) = packed_attention.logits(model, tokens, batch, looks)
        got, wanted, wanted_looks = found.log_softmax(-1), [], []
        model.set_attn_implementation("eager")
        for lesson in asked:
            messages = prompts.policy_messages(lesson.asked, depth_input, think=False, chain=lesson.answer)
            inputs = encode(processor, messages, [Image.fromarray(picture) for picture in pictures])
            answer = packer.conversation(lesson.asked, lesson.answer)[1]
            end = inputs["input_ids"].shape[1] - 1  # the template's line break
            assert inputs["input_ids"][0, end - len(answer) : end].tolist() == answer
            plain = model(**inputs, output_attentions=True)
            at = slice(end - len(answer) - 1, end - 1)
            wanted.append(plain.logits[0, at].log_softmax(-1))
            shown = inputs["input_ids"][0] == model.config.image_token_id
            wanted_looks.append(plain.attentions[2][0, :2, at].transpose(0, 1)[..., shown])
            if lesson is asked[0]:
                wanted_first = plain.attentions[1][0, :3, at].transpose(0, 1)[:1, :, shown]
    assert torch.allclose(got, torch.cat(wanted), atol=1e-4)
    pictured = batch["ids"][0] == model.config.image_token_id
    assert torch.allclose(looked[..., pictured].exp(), torch.cat(wanted_looks), atol=1e-5)
    assert torch.allclose(first[..., pictured].exp(), wanted_first, atol=1e-5)


def test_what_goes_on_from_the_models_own_words_has_no_end_and_does_not_teach_them() -> None:
    model, processor = build.build_policy(seed=0)
    packer = packed_attention.Packer(model, processor, **SIZE)
    asked, answer = packer.conversation("How many cubes are there?", " no more, 2.", "Next cube from 0.34:")
    alone, ended = packer.conversation("How many cubes are there?", " no more, 2.")
    said = processor.tokenizer("Next cube from 0.34:")["input_ids"]
    assert asked == alone + said and [*answer, processor.tokenizer.eos_token_id] == ended
    assert packer.rows([[(asked, answer, 1.0)]], True)["targets"].tolist() == answer


def test_a_gap_moves_an_answer_and_nothing_else() -> None:
    model, processor = build.build_policy(seed=0)
    packer = packed_attention.Packer(model, processor, **SIZE)
    row = [(*packer.conversation(asked, answer), 1.0) for asked, answer in (("red?", "no"), ("cube?", "yes"))]
    plain, moved = packer.rows([row], True), packer.rows([row], True, iter([7, 0]))
    away = moved.pop("positions") - plain.pop("positions")
    assert all(torch.equal(plain[name], moved[name]) for name in plain)
    start = len(packer.prefixes[True][0]) + len(row[0][0])
    expected = torch.zeros_like(away)
    expected[:, :, start : start + len(row[0][1])] = 7
    assert torch.equal(away, expected)


def test_lines_about_nothing_have_every_tag_of_a_chain() -> None:
    """One that is never seen in pre-training is confused with other unseen tokens when chains are sampled."""
    tokenizer, rng = build.build_tokenizer(), np.random.default_rng(0)
    seen = {token for _ in range(60) for token in tokenizer(lessons.aside(rng))["input_ids"]}
    said = chain(['[{"bbox_2d": [0.0, 0.1, 0.2, 0.3], "depth": 0.4}]'] * 2, "red", b"x", "fenceless")
    tags = {token for token in tokenizer(said)["input_ids"] if "<" in tokenizer.decode([token])}
    assert len(tags) == 5 and tags <= seen


def _looks(training: policy_training.Policy, seen: scene_pool.Seen, lesson: lessons.Lesson) -> tuple:
    rows = [[(*training.packer.conversation(lesson.asked, lesson.answer), 1.0)]]
    batch = training.packer.rows(rows, depth_input=True)
    return batch, *training._looks([seen], [[lesson]], rows, 2, batch)


def _shown(
    training: policy_training.Policy, batch: dict, seen: scene_pool.Seen, things: list[int]
) -> list[int]:
    image = torch.nonzero(batch["ids"][0] == training.model.config.image_token_id).squeeze(1)
    return image[np.tile(np.isin(np.array(seen.facts["cells"]).ravel(), things), 2)].tolist()


def test_a_noun_its_adjectives_and_the_answer_are_to_look_at_its_thing(drawn: list[scene_pool.Seen]) -> None:
    training = policy_training.Policy(SMALL)
    seen = drawn[0]
    things = seen.facts["things"]
    thing = things[1]
    called = f"{thing['size']} {thing['color']} {thing['shape']}"
    lesson = lessons.boxes("where", f"Where is the {called}?", seen, [1])
    batch, words, names, answers = _looks(training, seen, lesson)
    (noun,) = names.tokens
    assert training.processor.tokenizer.decode(batch["ids"][0, noun - 2 : noun + 1]) == f" {called}"
    assert (words.tokens, words.places) == ([noun], [[noun - 1, noun - 2]])
    cells = _shown(training, batch, seen, [1])
    assert cells and names.places == [cells]
    assert answers.tokens == batch["sources"].tolist()
    assert answers.places == [[*cells, noun]] * len(answers.tokens)  # the noun has found it
    assert answers.weights[:2] == [1.0, 1.0]  # the box's opening, and its first number
    assert set(answers.weights[2:]) == {0.1}


def test_every_noun_looks_at_all_that_it_names(drawn: list[scene_pool.Seen]) -> None:
    training = policy_training.Policy(SMALL)
    seen = drawn[0]
    things = seen.facts["things"]
    one, other = things[0]["color"], things[1]["shape"]
    lesson = lessons.Lesson("count", f"How many {one} objects are behind the {other}? objects?", "2", ((0,),))
    batch, words, names, answers = _looks(training, seen, lesson)
    called = [
        [i for i, thing in enumerate(things) if thing["color"] == one],
        [i for i, thing in enumerate(things) if thing["shape"] == other],
    ]
    shown = [_shown(training, batch, seen, found) for found in called]
    assert names.places == [places for places in shown if places]
    assert words.places == [[names.tokens[0] - 1]]  # the shape has no adjective, and " objects" names nothing
    assert all(isinstance(place, int) for places in answers.places for place in places)


def test_attention_where_it_should_be_costs_nothing() -> None:
    looks = losses.Looks(4)
    looks.add(0, [1, 2], 1.0)
    looks.add(3, [], 1.0)  # about nothing
    looks.add(5, [0], 0.5)
    shares = torch.tensor([[0.0, 0.5, 0.5, 0.0], [0.25, 0.25, 0.25, 0.25]])
    assert looks.missed(shares[:, None].log()).item() == pytest.approx(0.5 * math.log(4) / 1.5)
    assert losses.Looks(4).missed(torch.zeros(0, 3, 4)) == 0


def test_lessons_that_name_nothing_are_learnt_too(
    drawn: list[scene_pool.Seen], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drawing, "draw", lambda *_: [lessons.Lesson("say", "Say: red", "red")])
    loss, parts = policy_training.Policy(SMALL).loss(drawn[:1], np.random.default_rng(0), SMALL.looking)
    assert parts["pointing"] == 0 and torch.isfinite(loss)


@pytest.mark.e2e
@pytest.mark.parametrize("what", ["policy", "far", "lists", "depth"])
def test_pretraining_learns_and_resumes_to_the_last_bit(tmp_path: Path, what: str) -> None:
    recipe = replace(SMALL, what=what)
    if what in ("far", "lists"):
        model, processor = build.build_policy(seed=3)
        for part in (model, processor):
            part.save_pretrained(tmp_path / "start")
        recipe = replace(recipe, start=str(tmp_path / "start"))
    loop.train(tmp_path / "whole", recipe)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / "pool").symlink_to(tmp_path / "whole" / "pool")
    loop.train(tmp_path / "cut", recipe, stop_after=9)
    loop.train(tmp_path / "cut", recipe)
    whole, cut = (
        torch.load(tmp_path / name / "checkpoint.pt", weights_only=True) for name in ("whole", "cut")
    )
    for name, tensor in whole["modules"].items():
        assert torch.equal(tensor, cut["modules"][name]), name
    lines = [
        json.loads(line) for line in (tmp_path / "cut" / "history.jsonl").read_text().splitlines()
    ]  # steps 1 to 9, and 10 to 24
    assert [line["step"] for line in lines] == [9, 24]
    assert lines[1]["loss"] < 0.9 * lines[0]["loss"]
    if what != "depth":
        load_processor(tmp_path / "cut" / "model")
    pretrain.keep(what, tmp_path / "cut" / "model", tmp_path / "kept")
    exact, kept = (load_file(tmp_path / name / "model.safetensors") for name in ("cut/model", "kept"))
    assert all(torch.equal(kept[name], exact[name].half()) for name in exact)
    found = json.loads((tmp_path / "kept" / "config.json").read_text())
    assert (found["toy"], found["miniature"].split("-")[0]) == ("", "miniature")
    names = [{path.name for path in (tmp_path / name).iterdir()} for name in ("cut/model", "kept")]
    assert names[0] == names[1]
    with pytest.raises(UserError, match="only steps may change"):
        loop.train(tmp_path / "cut", replace(recipe, rate=2e-3))


def test_what_goes_wrong_in_the_rendering_is_said_at_once(tmp_path: Path) -> None:
    scenes = scene_pool.Pool(tmp_path, seed=1, width=0)
    rendering = scene_pool.Rendering(scenes, 1)
    try:
        with pytest.raises(IndexError):
            scene_pool.read(scenes, 0, rendering)
    finally:
        rendering.stop()
    with pytest.raises(UserError, match="take another folder"):
        scene_pool.Rendering(scene_pool.Pool(tmp_path, seed=2), 1)


@pytest.mark.parametrize("right", [True, False])
def test_held_out_scores_are_whole_for_the_truth_and_nothing_for_what_cannot_be_read(
    drawn: list[scene_pool.Seen], monkeypatch: pytest.MonkeyPatch, right: bool
) -> None:
    seen = drawn[:8]

    def answers(
        _model: object, _processor: object, _seen: object, asked: list[tuple[int, str]], *_said: object
    ) -> list[str]:
        return [truth(seen[scene], text) if right else "no idea" for scene, text in asked]

    monkeypatch.setattr(held_out, "answers", answers)
    found = held_out.policy_scores(None, None, seen)
    assert found["scenes"] == 8 and len(found["questions"]) > 5
    for kind in found["questions"].values():
        assert kind["right"] == (1.0 if right else 0.0)
        assert 0 < kind["blind"] <= 1
    assert found["questions after lines about nothing"]["right"] == (1.0 if right else 0.0)
    boxes = found["boxes"]
    assert (boxes["readable"], boxes["over half"]) == ((1.0, 1.0) if right else (0.0, 0.0))
    assert boxes["mean IoU"] == pytest.approx(1.0 if right else 0.0, abs=1e-3)
    assert 0 < boxes["blind"] < 1
    assert boxes["depth error"] == (0.0 if right else None)


def truth(seen: scene_pool.Seen, text: str) -> str:
    """What is right about a scene."""
    for thing in seen.facts["things"]:
        if text in {prompts.REC_QUESTION.format(query=name) for name in thing["names"]}:
            return json.dumps([{"bbox_2d": thing["box"], "depth": thing["depth"]}])
    asked = {
        lessons.plain(q, np.random.default_rng(0), options=False).asked: q for q in seen.facts["questions"]
    }
    return str(asked[text]["answer"])


def test_the_miniatures_depth_is_close_to_the_truth_on_smaller_pictures_too(
    drawn: list[scene_pool.Seen],
) -> None:
    """Of a quarter of the size that it was trained with, so less close than its card says."""
    from transformers import AutoImageProcessor, AutoModelForDepthEstimation

    from sifthinker.models import miniature

    folder = miniature.folder("depth")
    model = AutoModelForDepthEstimation.from_pretrained(folder, dtype=torch.float32).eval()
    found = held_out.depth_scores(model, AutoImageProcessor.from_pretrained(folder), drawn[:8])
    assert found["scenes"] == 8
    assert 0.9 < found["correlation"] <= 1
    assert found["least correlation"] <= found["correlation"]
    assert 0 < found["mean absolute error"] < 0.1

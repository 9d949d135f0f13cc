"""The folder of scenes: as many rows as asked for, files that the real loaders read, questions with one right answer."""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from sifthinker import config, scenes
from sifthinker.core import boxes, depth_maps, errors
from sifthinker.core.records import Sample
from sifthinker.data.sources import SOURCES
from sifthinker.evaluation.benchmarks import BENCHMARKS
from sifthinker.scenes import render

SETTINGS = config.Scenes(rows=80, benchmark_rows=30, width=120, height=96)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("scenes") / "out"
    scenes.write(out, SETTINGS)
    return out


@pytest.fixture(scope="module")
def truth(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """Objects by the image's path in the folder."""
    return {
        row["image"]: row["objects"] for row in json.loads((folder / "scenes.json").read_text())["scenes"]
    }


def jsonl(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


# --- the folder


def test_the_folder_holds_as_many_rows_as_were_asked_for(folder: Path) -> None:
    training = len(json.loads((folder / "viscot.json").read_text()))
    counting = len(json.loads((folder / "tallyqa.json").read_text()))
    assert training + counting == SETTINGS.rows
    assert counting == SETTINGS.rows // 4
    assert len(jsonl(folder / "vstar" / "test_questions.jsonl")) == 30
    assert len(jsonl(folder / "refcoco" / "REC_refcoco+_unc_testB.jsonl")) == 30
    assert len(json.loads((folder / "sif" / "viscot.json").read_text())) == 30
    spatial = [json.loads(path.read_text()) for path in (folder / "spatialbench").glob("*.json")]
    assert len(spatial) == 4
    assert sum(map(len, spatial)) == 30


@pytest.mark.parametrize("rows", [1, 5])
def test_odd_numbers_of_rows_are_met_too(rows: int, tmp_path: Path) -> None:
    settings = config.Scenes(rows=rows, benchmark_rows=rows + 2, width=64, height=64)
    written = scenes.write(tmp_path / "out", settings)
    assert written["viscot"] + written["tallyqa"] == rows
    assert [written[name] for name in ("sif", "vstar", "refcoco", "spatialbench")] == [rows + 2] * 4


def test_only_the_chosen_benchmarks_are_written(tmp_path: Path) -> None:
    settings = config.Scenes(rows=1, benchmark_rows=2, width=64, height=64, benchmarks=("refcoco",))
    scenes.write(tmp_path / "out", settings)
    assert [benchmark.name for benchmark in scenes.benchmarks(tmp_path / "out")] == ["refcoco"]


def test_same_seed_same_bytes_other_seed_other_scenes(tmp_path: Path) -> None:
    def digests(name: str, seed: int) -> dict[str, str]:
        out = tmp_path / name
        scenes.write(out, config.Scenes(rows=6, benchmark_rows=2, width=64, height=64, seed=seed))
        files = [path for path in out.rglob("*") if path.is_file()]
        return {str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}

    first = digests("first", -1)  # any seed will do
    assert digests("again", -1) == first
    other = digests("other", 7)
    assert not [path for path in other if path.endswith(".jpg") and other[path] == first.get(path)]


def test_no_scene_of_a_benchmark_is_one_of_the_training(
    folder: Path, truth: dict[str, list[dict[str, Any]]]
) -> None:
    pictures = Counter(hashlib.sha256((folder / image).read_bytes()).hexdigest() for image in truth)
    assert max(pictures.values()) == 1
    places = [json.dumps(thing["position"]) for things in truth.values() for thing in things]
    assert len(set(places)) == len(places)


def test_depth_files_give_the_recorded_depths(folder: Path, truth: dict[str, list[dict[str, Any]]]) -> None:
    files = sorted((folder / "depth" / "scenes").iterdir())
    assert len(files) == sum(image.startswith("images/") for image in truth)
    for file in files[:5]:
        decoded = depth_maps.decode_bytes(file.read_bytes())
        assert decoded.shape == (SETTINGS.height, SETTINGS.width)
        assert (decoded.min(), decoded.max()) == (0, 1)
        nearest = min(truth[f"images/scenes/{file.stem}.jpg"], key=lambda thing: thing["depth"])
        # The nearest thing is hidden by none; what its box has besides it is mostly floor behind it.
        x1, y1, x2, y2 = nearest["box"]
        assert decoded[y1:y2, x1:x2].min() < nearest["depth"] < decoded[y1:y2, x1:x2].max()


def test_an_earlier_folder_is_replaced_and_anything_else_refused(tmp_path: Path) -> None:
    settings = config.Scenes(rows=1, benchmark_rows=2, width=64, height=64)
    out = tmp_path / "out"
    out.mkdir()  # empty: taken
    scenes.write(out, settings)
    (out / "viscot.json").write_text("damaged")
    scenes.write(out, settings)
    assert json.loads((out / "viscot.json").read_text())
    with pytest.raises(errors.UserError, match="other settings"):
        scenes.write(out, settings.model_copy(update={"seed": 1}))
    with pytest.raises(errors.UserError, match="no folder of scenes"):
        scenes.write(tmp_path, settings)
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_nothing_is_left_behind_by_a_writer_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: object) -> bytes:
        raise OSError("disk full")

    monkeypatch.setattr(depth_maps, "encode", full)
    with pytest.raises(OSError, match="disk full"):
        scenes.write(tmp_path / "out", config.Scenes(rows=1, width=64, height=64))
    assert not list(tmp_path.iterdir())


# --- formats


def test_viscot_rows_give_the_box_in_pixels_and_on_the_padded_square(
    folder: Path, truth: dict[str, list[dict[str, Any]]]
) -> None:
    width, height = SETTINGS.width, SETTINGS.height
    for row in json.loads((folder / "viscot.json").read_text()):
        plain, marked = row["image"]
        box = json.loads(marked.removeprefix(f"{plain}###"))
        assert box in [thing["box"] for thing in truth[plain.replace("cot/", "images/")]]
        x1, y1, x2, y2 = box
        pad = (width - height) // 2  # PAPER.md F2.1
        padded = [v / width for v in (x1, y1 + pad, x2, y2 + pad)]
        assert json.loads(row["conversations"][1]["value"]) == pytest.approx(padded, abs=5e-4)


def test_the_real_loaders_read_every_training_row(
    folder: Path, truth: dict[str, list[dict[str, Any]]]
) -> None:
    loaded = 0
    for source in scenes.sources(folder):
        for sample in SOURCES[source.format](source.path, source.images, source):
            assert isinstance(sample, Sample), sample
            loaded += 1
            known = [thing["box"] for thing in truth[f"images/{sample.image.removeprefix('cot/')}"]]
            for box in sample.boxes:
                pixels = boxes.to_pixels(box, sample.width, sample.height)
                assert [round(value) for value in pixels] in known
    assert loaded == SETTINGS.rows


def test_the_real_benchmarks_read_every_row(folder: Path) -> None:
    for benchmark in scenes.benchmarks(folder):
        rows = list(BENCHMARKS[benchmark.name].load(benchmark))
        assert len(rows) == SETTINGS.benchmark_rows
        for row in rows:
            with Image.open(benchmark.images / row.image) as image:
                assert image.size == (SETTINGS.width, SETTINGS.height)


def test_spatialbench_pairs_are_a_yes_and_a_no_about_one_picture(folder: Path) -> None:
    root = folder / "spatialbench"
    for category in ("existence", "size"):
        rows = json.loads((root / f"{category}.json").read_text())
        assert rows
        for positive, negative in zip(rows[::2], rows[1::2], strict=True):
            assert positive["image"] == negative["image"]
            assert (positive["answer"], negative["answer"]) == ("Yes", "No")
    for image in root.glob("*/*.jpg"):
        with Image.open(root / f"{image.parent.name}_d" / f"{image.stem}.png") as millimetres:
            assert np.asarray(millimetres).dtype == np.uint16
            assert 3000 < np.asarray(millimetres).min() < np.asarray(millimetres).max() < 20_000


def test_vstar_options_are_different_and_the_files_beside_give_the_right_one_first(folder: Path) -> None:
    rows = jsonl(folder / "vstar" / "test_questions.jsonl")
    for row in rows:
        options = dict(re.findall(r"^\((\w)\) (.*)$", row["text"], re.MULTILINE))
        assert len(set(options.values())) == (4 if row["category"] == "direct_attributes" else 2)
        beside = json.loads((folder / "vstar" / row["image"]).with_suffix(".json").read_text())
        assert beside["options"][0] == options[row["label"]]
        assert set(beside["options"]) == set(options.values())
    labels = Counter((row["category"], row["label"]) for row in rows)
    for category, letters in (("direct_attributes", "ABCD"), ("relative_position", "AB")):
        counts = [labels[category, letter] for letter in letters]
        assert max(counts) - min(counts) <= 1


# --- answers, worked out a second time from scenes.json alone


def called(things: list[dict[str, Any]], phrase: str) -> list[dict[str, Any]]:
    """All things that the words fit: "large red cubes"."""
    words = [word.removesuffix("s") for word in phrase.split() if word.rstrip("s") != "object"]
    return [thing for thing in things if {thing["shape"], thing["color"], thing["size"]} >= set(words)]


def only(things: list[dict[str, Any]], phrase: str) -> dict[str, Any]:
    (thing,) = called(things, phrase)
    return thing


def is_beside(a: dict[str, Any], relation: str, b: dict[str, Any]) -> bool:
    match relation:
        case "to the left of" | "to the right of":
            difference = sum(a["box"][::2]) - sum(b["box"][::2])
            return (difference < 0) == (relation == "to the left of")
        case "in front of" | "behind":
            return bool((a["depth"] < b["depth"]) == (relation == "in front of"))
    raise AssertionError(relation)


RELATION = "(to the left of|to the right of|in front of|behind)"
# Question -> its answer, and the things that the boxes must be of.
RULES: tuple[tuple[str, Any], ...] = (
    ("What color is the (.+)", lambda things, a: (only(things, a)["color"], [only(things, a)])),
    ("What is the shape of the (.+)", lambda things, a: (only(things, a)["shape"], [only(things, a)])),
    ("Is the (.+) large or small", lambda things, a: (only(things, a)["size"], [only(things, a)])),
    (
        "Is the (.+) (?:to the left or to the right of|on the left or right side of) the (.+)",
        lambda things, a, b: (
            "left" if is_beside(only(things, a), "to the left of", only(things, b)) else "right",
            [only(things, a)],
        ),
    ),
    (
        "Is the (.+) in front of or behind the (.+)",
        lambda things, a, b: (
            "in front" if is_beside(only(things, a), "in front of", only(things, b)) else "behind",
            [only(things, a)],
        ),
    ),
    (
        "Which is closer to the camera, the (.+) or the (.+)",
        lambda things, a, b: min(
            ((words, [only(things, words)]) for words in (a, b)), key=lambda pair: pair[1][0]["depth"]
        ),
    ),
    (
        "Which object is (closest|farthest) (?:to|from) the camera",
        lambda things, which: (
            None,
            [(min if which == "closest" else max)(things, key=lambda thing: thing["depth"])],
        ),
    ),
    (
        f"Is there a (\\w+) {RELATION} the (.+)",
        lambda things, shape, relation, b: (
            "yes" if any(is_beside(a, relation, only(things, b)) for a in called(things, shape)) else "no",
            [only(things, b)],
        ),
    ),
    (
        "Is there an? (\\w+ \\w+) in the image",
        lambda things, words: ("Yes" if called(things, words) else "No", None),
    ),
    (
        "Is the (.+) (larger|smaller) than the (.+)",
        lambda things, a, which, b: (
            "Yes"
            if (only(things, a)["size"], only(things, b)["size"])
            == (("large", "small") if which == "larger" else ("small", "large"))
            else "No",
            None,
        ),
    ),
    (
        "How many (.+) are there",
        lambda things, words: (str(len(called(things, words))), called(things, words)),
    ),
    (
        f"How many objects are {RELATION} the (.+)",
        lambda things, relation, b: (lambda found: (str(len(found)), found),)[0](
            [a for a in things if a is not only(things, b) and is_beside(a, relation, only(things, b))]
        ),
    ),
    (
        f"Is the (.+) ({'|'.join(render.COLORS)})",
        lambda things, a, color: ("yes" if only(things, a)["color"] == color else "no", [only(things, a)]),
    ),
)


def solve(text: str, things: list[dict[str, Any]]) -> tuple[str | None, list[dict[str, Any]] | None]:
    question = text.split("?")[0]
    for pattern, rule in RULES:
        if match := re.fullmatch(pattern, question):
            answer, wanted = rule(things, *match.groups())
            return answer, wanted
    raise AssertionError(f"no rule for {text!r}")


def meant(text: str, answer: str) -> str:
    """The option behind a letter, and yes behind "Yes", where a question is asked as benchmarks ask it."""
    options = dict(re.findall(r"\((\w)\) (.*?)(?=\s\(|\sAnswer)", text))
    if options:
        return options[answer]
    return answer.lower() if "Answer with Yes or No." in text else answer


def test_training_answers_and_boxes_follow_from_the_scenes(
    folder: Path, truth: dict[str, list[dict[str, Any]]]
) -> None:
    rows = [(row, "images") for row in json.loads((folder / "viscot.json").read_text())]
    rows += [(row, "sif/images") for row in json.loads((folder / "sif" / "viscot.json").read_text())]
    for row, images in rows:
        things = truth[row["image"][0].replace("cot", images, 1)]
        text, given = (row["conversations"][turn]["value"] for turn in (0, 3))
        given = meant(text, given)
        answer, wanted = solve(text.removeprefix("<image>\n"), things)
        assert wanted is not None
        if answer is None:  # a name is asked for
            assert only(things, given) == wanted[0], text
        else:
            assert given == answer, text
        assert row["image"][1].endswith(f"###{wanted[0]['box']}"), text
    for row in json.loads((folder / "tallyqa.json").read_text()):
        answer, wanted = solve(row["question"], truth[f"images/{row['image']}"])
        assert wanted is not None
        assert str(row["answer"]) == answer, row
        assert sorted(row["bboxs"]) == sorted(thing["box"] for thing in wanted), row


def test_benchmark_answers_follow_from_the_scenes(
    folder: Path, truth: dict[str, list[dict[str, Any]]]
) -> None:
    for row in jsonl(folder / "vstar" / "test_questions.jsonl"):
        options = dict(re.findall(r"^\((\w)\) (.*)$", row["text"], re.MULTILINE))
        answer, _ = solve(row["text"], truth[f"vstar/{row['image']}"])
        assert options[row["label"]] == answer, row
    for row in jsonl(folder / "refcoco" / "REC_refcoco+_unc_testB.jsonl"):
        things = truth[f"refcoco/images/{row['img_path']}"]
        assert only(things, row["expression"])["box"] == row["bbox"], row
    for category in ("positional", "existence", "counting", "size"):
        for row in json.loads((folder / "spatialbench" / f"{category}.json").read_text()):
            answer, _ = solve(row["question"], truth[f"spatialbench/{row['image']}"])
            options = dict(re.findall(r"\((\w)\) (.*?)(?= \(| Answer)", row["question"]))
            assert options.get(row["answer"], str(row["answer"])) == answer, row


def test_a_third_of_the_training_is_asked_as_benchmarks_ask(folder: Path) -> None:
    texts = [row["conversations"][0]["value"] for row in json.loads((folder / "viscot.json").read_text())]
    texts += [row["question"] for row in json.loads((folder / "tallyqa.json").read_text())]
    forms = ("Answer with the option's letter", "Answer with Yes or No.", "Answer with a number.")
    shares = [sum(form in text for text in texts) / len(texts) for form in forms]
    assert all(shares) and 0.2 < sum(shares) < 0.4  # "nearest" and "nearer" have no other form


def test_kinds_and_answers_come_in_about_equal_numbers(folder: Path) -> None:
    answers: dict[str, Counter[str]] = {}
    for row in json.loads((folder / "viscot.json").read_text()):
        text, answer = (row["conversations"][turn]["value"] for turn in (0, 3))
        asked = (
            text[8:].split("?")[0].replace("on the left or right side of", "to the left or to the right of")
        )
        kind = next(pattern for pattern, _ in RULES if re.fullmatch(pattern, asked))
        answers.setdefault(kind, Counter())[meant(text, answer)] += 1
    totals = [sum(counter.values()) for counter in answers.values()]
    assert len(answers) == 9
    assert max(totals) - min(totals) <= 3
    for counter in answers.values():
        if len(counter) == 2:  # yes or no, left or right, ...
            assert max(counter.values()) - min(counter.values()) <= 2, counter

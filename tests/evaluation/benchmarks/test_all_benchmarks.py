"""Every benchmark through the whole evaluation, from small files in each of its published formats."""

import base64
import dataclasses
import io
import itertools
import json
from contextlib import nullcontext

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from sifthinker import config, llm
from sifthinker.core import depth_maps, tables
from sifthinker.evaluation import evaluate, statistics
from sifthinker.evaluation.benchmarks import (
    BENCHMARKS,
    mme,
    ovdeval,
    pope,
    refcoco,
    replies,
    spatialbench,
    viscot,
)
from sifthinker.evaluation.benchmarks.question import Question
from sifthinker.evaluation.progress import _NOTHING
from sifthinker.evaluation.statistics import bootstrap
from sifthinker.models import loading, serving

INSTRUCTION = "Answer with the option's letter from the given choices directly."


def png(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (40, 30), (number, 7, 7)).save(buffer, format="PNG")
    return buffer.getvalue()


def parquet(rows) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), buffer)
    return buffer.getvalue()


def lines(rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def letter(i, garbage):
    return "AB"[(i + garbage) % 2]


def yes(i, garbage):
    return ("yes", "no")[(i + garbage) % 2]


def published(name: str, garbage: bool) -> dict[str, bytes]:
    """The files of a benchmark, four questions a group; with `garbage` every label is another one."""
    n = range(4)
    pictures = {f"{i}.png": png(i) for i in n}
    if name == "vstar":
        text = "What is thing {}?\n(A) red\n(B) blue\n" + INSTRUCTION
        kinds = ("direct_attributes", "relative_position")
        rows = [
            {"image": f"{i}.png", "text": text.format(i), "category": kinds[i % 2], "label": letter(i, garbage), "question_id": i}
            for i in n
        ]  # fmt: skip
        return pictures | {"test_questions.jsonl": lines(rows)}
    if name == "refcoco":
        files = {}
        for file in refcoco.FILES.values():
            dataset, split = file.split("_")[1], file.split("_")[3].removesuffix(".jsonl")
            rows = [
                {
                    "img_path": f"{i}.png",
                    "expression": f"{file} {i}",
                    "bbox": [i + 9 * garbage, 2, i + 9 + 20 * garbage, 20],
                    "dataset_name": f"jxu124/{dataset}",
                    "height": 30,
                    "width": 40,
                    "sent_id": i,
                    "split": split,
                }
                for i in n
            ]
            files[file] = lines(rows)
        return pictures | files
    if name == "spatialbench":
        files = {}
        for category in spatialbench.CATEGORIES:
            rows = []
            for i in n:
                question = f"{category} {i}? (A) one (B) two. {INSTRUCTION}"
                answer = str(i + 1 + garbage) if category == "counting" else letter(i, garbage)
                rows.append({"image": f"{i}.png", "question": question, "answer": answer})
            files[f"{category}.json"] = json.dumps(rows).encode()
        return pictures | files
    if name == "cvbench":
        files = {}
        for part, sources in (("2d", ("ADE20K", "COCO")), ("3d", ("Omni3D",))):
            rows = [
                {
                    "idx": 4 * k + i,
                    "type": part.upper(),
                    "source": source,
                    "filename": f"{source}{i}.png",
                    "choices": ["one", "two"],
                    "answer": f"({letter(i, garbage)})",
                    "prompt": f"{source} {i}?\n(A) one\n(B) two",
                    "image": {"bytes": png(i), "path": None},
                }
                for k, source in enumerate(sources)
                for i in n
            ]
            files[f"test_{part}.parquet"] = parquet(rows)
        return files
    if name == "sat":
        rows = [
            {
                "image_bytes": [png(i)],
                "question": f"{i}?",
                "answers": ["left", "right"],
                "question_type": "other",
                "correct_answer": ("left", "right")[(i + garbage) % 2],
            }
            for i in n
        ]
        return {"SAT_static.parquet": parquet(rows)}
    if name == "pope":
        return pictures | {
            f"coco_pope_{category}.json": lines(
                [
                    {
                        "question_id": i,
                        "image": f"{i}.png",
                        "text": f"{category} {i}?",
                        "label": yes(i, garbage),
                    }
                    for i in n
                ]
            )
            for category in pope.CATEGORIES
        }
    if name == "mme":
        files = {}
        for task in mme.PERCEPTION + mme.COGNITION:
            for i in n:
                files[f"{task}/{i}.png"] = png(i)
                files[f"{task}/{i}.txt"] = (
                    f"{task} {i} a?\t{yes(0, garbage)}\n{task} {i} b?\t{yes(1, garbage)}\n".encode()
                )
        return files
    if name == "seed":
        choices = {f"choice_{c}": f"thing {c}" for c in "abcd"}
        questions = [
            {
                "data_type": "image",
                "data_id": f"{i}.png",
                "question": f"{i}?",
                "question_id": i,
                "question_type_id": 1,
            }
            | choices
            | {"answer": letter(i, garbage)}
            for i in n
        ]
        return pictures | {
            "SEED-Bench.json": json.dumps({"questions": questions, "question_type": {"Scene": 1}}).encode()
        }
    if name == "mmbench":
        image = base64.b64encode(png(1)).decode()
        rows = ["index\tquestion\thint\tA\tB\tC\tD\tanswer\tcategory\timage\tsplit"]
        for i in n:
            rows.append(f"{i}\tWhat {i}?\t\tred\tblue\t\t\t{letter(i, garbage)}\tc\t{image}\tdev")
            rows.append(f"{i + 1000000}\tWhat {i}?\t\tblue\tred\t\t\t{letter(i + 1, garbage)}\tc\t{i}\tdev")
        return {"mmbench.tsv": "\n".join(rows).encode()}
    if name == "vqav2":
        questions = [{"image_id": i, "question": f"{i}?", "question_id": i} for i in n]
        said = [
            {"question_id": i, "answer_type": "other", "answers": [{"answer": f"{i + garbage}"}] * 10}
            for i in n
        ]
        return {f"COCO_val2014_{i:012d}.jpg": png(i) for i in n} | {
            "v2_OpenEnded_mscoco_val2014_questions.json": json.dumps({"questions": questions}).encode(),
            "v2_mscoco_val2014_annotations.json": json.dumps({"annotations": said}).encode(),
        }
    if name == "ovdeval":
        files = {}
        for task in ovdeval.SUBTASKS:
            document = {
                "categories": [{"id": 1, "name": f"{task} bag"}, {"id": 2, "name": "dog"}],
                "images": [{"file_name": f"{i}.png", "id": i, "height": 30, "width": 40, "text": [f"{task} bag", "dog"]} for i in n],
                "annotations": [
                    {"id": i, "bbox": [4 + 10 * garbage, 3, 20, 15], "category_id": 1 + garbage, "image_id": i} for i in n
                ],
            }  # fmt: skip
            files[f"{task}.json"] = json.dumps(document).encode()
        return pictures | files
    if name == "sif":
        fixed = {"image": "1.png", "width": 40, "height": 30, "bboxs": [[4 + 10 * garbage, 3, 20, 15]]}
        rows = [
            fixed | {"question": f"What {i}?", "answer": yes(i, garbage), "dataset": "gqa", "split": "val", "question_id": i}
            for i in n
        ]  # fmt: skip
        return pictures | {"rows.jsonl": lines(rows)}
    assert name == "viscot"
    files = {}
    for source in viscot.SOURCES:
        rows = []
        for i in n:
            turns = [
                {"value": f"<image>\n{source} {i}? Please provide the bounding box"},
                {"value": ("door", "window")[garbage]},
            ]
            rows.append(
                {"dataset": source, "question_id": i, "image": [f"cot/{i}.png"], "conversations": turns}
            )
        files[f"{source}.json"] = json.dumps(rows).encode()
    return pictures | files


# The other forms in which a benchmark is published; `published` makes the first.
FORMS = [(name, "") for name in BENCHMARKS] + [
    ("refcoco", "parquet"),
    ("cvbench", "jsonl"),
    ("sat", "v2"),
    ("pope", "parquet"),
    ("pope", "parquet-full"),
    ("mme", "folders"),
    ("mme", "parquet"),
    ("seed", "parquet"),
    ("mmbench", "legacy"),
    ("mmbench", "parquet"),
    ("vqav2", "parquet"),
]


def embedded(data: bytes) -> dict[str, object]:
    return {"bytes": data, "path": None}


def in_form(name: str, form: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """The same questions in another published form."""
    if name == "refcoco":
        out = {}
        for split, (repository, part) in refcoco.PARQUET.items():
            rows = []
            for line in files[refcoco.FILES[split.replace("+google", "")]].splitlines():
                row = json.loads(line)
                x1, y1, x2, y2 = map(float, row["bbox"])
                rows.append(
                    {
                        "question_id": str(row["sent_id"]),
                        "image": embedded(files[row["img_path"]]),
                        "answer": [row["expression"], row["expression"] + " again"],
                        "bbox": [x1, y1, x2 - x1, y2 - y1],
                    }
                )
            out[f"{repository}/data/{part}-00000-of-00001.parquet"] = parquet(rows)
        return out
    if name == "cvbench":
        out = {}
        for file, content in files.items():
            rows = pq.read_table(io.BytesIO(content)).to_pylist()
            out |= {row["filename"]: row.pop("image")["bytes"] for row in rows}
            out[file.replace("parquet", "jsonl")] = lines(rows)
        return out
    if name == "sat":
        rows = pq.read_table(io.BytesIO(files["SAT_static.parquet"])).to_pylist()
        for row in rows:
            row["images"] = [embedded(data) for data in row.pop("image_bytes")]
        return {"SAT_static.parquet": parquet(rows)}
    if name == "pope":
        rows = {
            category: [
                {
                    "question_id": str(row["question_id"]),
                    "question": row["text"],
                    "answer": row["label"],
                    "image_source": row["image"],
                    "image": embedded(files[row["image"]]),
                    "category": category,
                }
                for row in map(json.loads, files[f"coco_pope_{category}.json"].splitlines())
            ]
            for category in pope.CATEGORIES
        }
        if form == "parquet-full":
            return {
                f"Full/{category}-00000-of-00001.parquet": parquet(part) for category, part in rows.items()
            }
        return {"data/test-00000-of-00001.parquet": parquet([row for part in rows.values() for row in part])}
    if name == "mme" and form == "folders":
        return {
            file.replace("/", "/images/" if file.endswith("png") else "/questions_answers_YN/"): content
            for file, content in files.items()
        }
    if name == "mme":
        rows = [
            {
                "question_id": file.replace("txt", "png"),
                "image": embedded(files[file.replace("txt", "png")]),
                "category": file.partition("/")[0],
                "question": line.partition("\t")[0],
                "answer": line.partition("\t")[2].capitalize(),
            }
            for file, content in files.items()
            if file.endswith("txt")
            for line in content.decode().splitlines()
        ]
        return {"data/test-00000-of-00001.parquet": parquet(rows)}
    if name == "seed":
        rows = json.loads(files["SEED-Bench.json"])["questions"]
        rows = [
            row | {"question_id": str(row["question_id"]), "image": [embedded(files[row["data_id"]])]}
            for row in rows
        ]
        return {"data/test-00000-of-00001.parquet": parquet(rows)}
    if name == "mmbench":
        head, *rest = (line.split("\t") for line in files["mmbench.tsv"].decode().splitlines())
        rows = [dict(zip(head, row, strict=True)) for row in rest]
        picture = rows[0]["image"]
        if form == "legacy":
            filled = ["\t".join((row | {"image": picture}).values()) for row in rows]
            return {"mmbench.tsv": "\n".join(["\t".join(head), *filled]).encode()}
        image = embedded(base64.b64decode(picture))
        return {"en/dev-00000-of-00001.parquet": parquet([row | {"image": image} for row in rows])}
    assert name == "vqav2"
    asked = json.loads(files["v2_OpenEnded_mscoco_val2014_questions.json"])["questions"]
    said = json.loads(files["v2_mscoco_val2014_annotations.json"])["annotations"]
    rows = [
        question | people | {"image": embedded(files[f"COCO_val2014_{question['image_id']:012d}.jpg"])}
        for question, people in zip(asked, said, strict=True)
    ]
    return {"data/validation-00000-of-00001.parquet": parquet(rows)}


def chain(answer: str, boxes=((0.1, 0.1, 0.2, 0.2),)) -> str:
    area = json.dumps([{"bbox_2d": list(box), "depth": 0.5} for box in boxes])
    return f"<think><area>{area}</area><text>t</text></think><answer>{answer}</answer>"


def perfect(name: str, question: Question) -> str:
    """The reply of somebody who knows."""
    if name == "refcoco":
        return chain("there", [json.loads(question.reference)])
    if name == "vqav2":
        return chain(json.loads(question.reference)[0])
    if name == "ovdeval":
        ((label, (x, y, w, h), _),) = json.loads(question.reference)["objects"]
        return chain(label, [(x / 40, y / 30, (x + w) / 40, (y + h) / 30)])
    if name == "sif":
        truth = json.loads(question.reference)
        return chain(truth["answer"], truth["boxes"])
    return chain(question.reference)


def depths(pairs):
    """Every image is at the depth that `chain` states."""
    flat = depth_maps.picture(np.full((30, 40), 0.5, dtype=np.float32))
    return [(digest, flat) for digest, _ in pairs]


class Server:
    """Answers from a table of texts, and remembers what it was asked."""

    def __init__(self, answer):
        self.answer, self.requests = answer, []
        self.api = config.Api(base_url="standin", model="judge")

    def __call__(self, *_args, **_kwargs):
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def answers(self, requests):
        for request in requests:
            self.requests.append(request)
            yield llm.Reply(self.answer(request), "stop", "test", 1, 1)

    def expect(self, rows):
        """How far it is, is shown to nobody."""

    def row_done(self, kept):
        """The same."""

    def progress(self):
        return _NOTHING


def judge(request):
    content = json.dumps(request.messages[1]["content"])
    right = (
        "standard answer: door\\nmodel's answer: door" in content
        or "Standard answer: door\\nModel's answer:\\n" in content
    )
    return f'{{"score": {right:d}}}' if "image_url" in content else f"score: {right:d}"


def written(folder, name, form, garbage=False) -> config.Benchmark:
    """A benchmark's files in one of its forms, in that folder."""
    made = published(name, garbage)
    for relative, content in (in_form(name, form, made) if form else made).items():
        file = folder / relative
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    path = folder / ("en" if form == "parquet" else "mmbench.tsv") if name == "mmbench" else folder
    if name == "sif":
        path = folder / "rows.jsonl"
    return config.Benchmark(name=name, path=path, images=folder)


@pytest.mark.parametrize("think", [True, False], ids=["cut off in its chain", "empty"])
@pytest.mark.parametrize("name", BENCHMARKS)
def test_an_answer_that_is_not_there_is_right_by_neither_rule(name, think, tmp_path):
    """A letter, number or name in the reasoning is no answer, and nothing is filled in for one that is missing."""
    questions = [
        item for item in BENCHMARKS[name].load(written(tmp_path, name, "")) if isinstance(item, Question)
    ]
    assert questions
    for question in questions:
        texts = "; ".join(text for _, text in question.options)
        said = f"<think>\n<text>The answer is {question.reference}. {texts}. Yes, B" if think else ""
        answer = replies.read(said, think, "length" if think else "stop")
        if BENCHMARKS[name].scores_chain:
            depth = depth_maps.SummedArea(np.full((30, 40), 0.5, np.float32))
            answer = dataclasses.replace(answer, chain=said if think else None, depth=depth)
        for rule in (BENCHMARKS[name].official, BENCHMARKS[name].strict):
            # To POPE's script an empty reply, unlike one that is missing, is a yes.
            if think or (name, rule, question.reference) != ("pope", BENCHMARKS[name].official, "yes"):
                assert rule(question, answer).score == 0, question


@pytest.fixture
def asked(tmp_path, monkeypatch):
    """Runs one benchmark with a table of replies; gives the scores and the requests."""

    def run(name, form, reply_of, garbage=False):
        source = written(tmp_path / f"{name}-{garbage}", name, form, garbage)
        questions = [q for q in BENCHMARKS[name].load(source) if isinstance(q, Question)]
        table = {(q.text, q.group): reply_of(q) for q in questions}
        by_text = {}
        for (text, _), reply in table.items():
            by_text[text] = reply

        def answer(request):
            text = request.messages[0]["content"][-1]["text"]
            return by_text[next(known for known in by_text if f"\n{known} Please first output" in text)]

        server = Server(answer)
        monkeypatch.setattr(evaluate.llm, "Client", server)
        # A tenth of the draws: whether the score lies within its interval is looked at here, not where the interval ends.
        monkeypatch.setattr(
            statistics, "bootstrap", lambda of, clusters, draws: bootstrap(of, clusters, draws // 10)
        )
        out = tmp_path / "out"
        out.mkdir(exist_ok=True)
        summary = evaluate.evaluate(
            nullcontext(evaluate.Served("http://127.0.0.1:1", "model", "label", "digest")),
            config.Model(),
            config.Evaluate(benchmarks=[source]),
            tmp_path / "ledger",
            depths,
            out,
            Server(judge),
        )
        assert not any(score["missing"] or score["rejected"] for score in summary["scores"])
        return summary["scores"], server.requests

    return run


FULL = {"mme": {"perception": 2000, "cognition": 800}}


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_perfect_replies_score_the_maximum_and_empty_ones_the_minimum(name, form, asked):
    for reply_of, right in ((lambda q: perfect(name, q), True), (lambda q: "", False)):
        scores, _ = asked(name, form, reply_of)
        assert scores
        for score in scores:
            full = FULL.get(name, {}).get(
                score["metric"], {"points": 200 if name == "mme" else 100, "share": 1}[score["unit"]]
            )
            assert score["strict"] == pytest.approx(full if right else 0), score
            if right:
                assert score["official"] == pytest.approx(full), score
            assert score["unparsable"] == (0 if right else score["n"])
            assert score["low"] <= score["strict"] + 1e-9 and score["strict"] <= score["high"] + 1e-9


@pytest.mark.parametrize(("name", "form"), FORMS)
def test_ground_truth_never_enters_a_request(name, form, asked, monkeypatch):
    monkeypatch.setattr(
        evaluate.scoring, "scores", lambda *_: []
    )  # the intervals take longest, and are not looked at
    bodies = []
    for garbage in (False, True):
        _, requests = asked(name, form, lambda q: chain("A"), garbage)
        bodies.append([json.dumps(request.messages) for request in requests])
    assert bodies[0] == bodies[1] and len(bodies[0]) >= 4


@pytest.mark.e2e
def test_all_are_asked_of_the_embedded_server_by_the_real_client_and_scored(tmp_path):
    model = tmp_path / "model"
    loading.build_tiny("qwen2_5_vl", 0, model)
    loading.load_processor(model, 56 * 56).save_pretrained(model)
    # Several forms of a benchmark have the same questions, so each is in an evaluation of its own.
    forms: dict[str, list[str]] = {}
    for name, form in FORMS:
        forms.setdefault(name, []).append(form)
    scores, rows = [], []
    with serving.serving(model, "transformers", tmp_path / "server.log") as url:
        api = config.Api(base_url=url, model=serving.MODEL_NAME, concurrency=4)
        with llm.Client(api, tmp_path / "judge.sqlite", url, scope="judge") as its_own_judge:
            for number, asked in enumerate(itertools.zip_longest(*forms.values())):
                sources = [
                    written(tmp_path / f"{name}-{form}", name, form)
                    for name, form in zip(forms, asked, strict=True)
                    if form is not None
                ]
                out = tmp_path / str(number)
                out.mkdir()
                summary = evaluate.evaluate(
                    nullcontext(evaluate.Served(url, serving.MODEL_NAME, "toy", "digest")),
                    config.Model(),
                    config.Evaluate(benchmarks=sources, limit=4, max_tokens=16),
                    tmp_path / "ledger.sqlite",
                    depths,
                    out,
                    its_own_judge,
                )
                scores += summary["scores"]
                rows += tables.read(out / "predictions.parquet", ["completion_tokens", "prompt_tokens"])
    assert {score["benchmark"] for score in scores} == set(BENCHMARKS)
    for score in scores:
        assert (score["missing"], score["rejected"], score["limit"]) == (None, 0, 4), score
        assert score["n"] > 0 and (
            score["strict"] is None or score["low"] <= score["strict"] <= score["high"]
        )
    assert len(rows) > 3 * len(FORMS)
    assert all(0 < row["completion_tokens"] <= 16 < row["prompt_tokens"] for row in rows)

"""The files of every benchmark, four questions a group, in each of its published forms."""

import base64
import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from sifthinker import config
from sifthinker.evaluation.benchmarks import (
    BENCHMARKS,
    mme,
    ovdeval,
    pope,
    refcoco,
    spatialbench,
    viscot,
)

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

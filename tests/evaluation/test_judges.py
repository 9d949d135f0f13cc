"""Two judges on the same replies: hand-computed tables, and the command with two stand-ins of judges."""

from __future__ import annotations

import json
import math
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from typer.testing import CliRunner

from flows.commands.main import app
from sifthinker import llm
from sifthinker.config import Api
from sifthinker.core.errors import UserError
from sifthinker.evaluation import judges
from sifthinker.evaluation.judges import Judged, agreement
from tests import evil


def test_the_table_is_what_a_person_computes() -> None:
    first = [1.0, 0.9, 0.8, 0.1, 0.0, None]
    second = [1.0, 0.5, 0.8, 0.2, 0.9, 0.5]
    found = agreement(first, second)
    assert (found.replies, found.scored, found.unscored) == (6, 5, (1, 0))
    assert found.means == pytest.approx((0.56, 0.68))
    assert found.close == pytest.approx(3 / 5)  # 1-1, 0.8-0.8, 0.1-0.2
    assert found.right == pytest.approx((3 / 5, 3 / 5))
    assert found.turned == pytest.approx(2 / 5)
    assert found.kappa == pytest.approx((0.6 - 0.52) / 0.48)  # chance: 0.6 x 0.6 + 0.4 x 0.4
    assert found.rank == pytest.approx(0.3)  # ranks 5 4 3 2 1 and 5 2 3 1 4: 1 - 6 x 14 / 120
    assert found.table(("a", "b"))[1] == ("no score", "1 of 6", "0 of 6")


@pytest.mark.parametrize(
    ("first", "second"), [([None, 0.5], [0.5, None]), ([], []), ([1.0, 1.0], [1.0, 1.0]), ([0.3], [0.4])]
)
def test_what_cannot_be_computed_is_not_a_number(
    first: list[float | None], second: list[float | None]
) -> None:
    found = agreement(first, second)
    assert math.isnan(found.rank)
    assert "n/a" in str(found.table(("a", "b")))


def test_judges_that_always_agree_have_a_kappa_of_one() -> None:
    scores = [0.0, 1.0, 0.9, 0.2]
    found = agreement(scores, scores)
    assert (found.kappa, found.rank, found.turned, found.close) == pytest.approx((1, 1, 0, 1))


def lines(path: Path, rows: list[object]) -> Path:
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")
    return path


def row(number: int, **more: object) -> dict[str, object]:
    return {"question": f"q{number}", "reference": "red", "answer": f"red {number}", **more}


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_text_may_hold_what_unicode_takes_for_the_end_of_a_line(tmp_path: Path, end: str) -> None:
    rows = [row(0, answer="red\u2028or\x85blue"), row(1)]
    file = tmp_path / "r.jsonl"
    file.write_bytes("".join(json.dumps(one, ensure_ascii=False) + end for one in rows).encode())
    assert [one.answer for one in judges.replies(file, 10)] == ["red\u2028or\x85blue", "red 1"]


def test_a_sample_is_seeded_and_what_has_no_answer_is_left_out(tmp_path: Path) -> None:
    file = lines(tmp_path / "r.jsonl", [*map(row, range(50)), row(50, answer=""), row(51, reference="")])
    first = judges.replies(file, 10)
    assert first == judges.replies(file, 10) != judges.replies(file, 10, seed=1)
    assert len(first) == 10
    assert len(judges.replies(file, 1000)) == 50


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([row(0), {"question": "q"}], "line 2: KeyError"),
        ([row(0, answer=3)], "line 1: .*must be texts"),
        ([[1]], "line 1: TypeError"),
        ([row(0, answer="")], "no reply has an answer"),
    ],
)
def test_a_file_that_cannot_be_used_is_explained(tmp_path: Path, rows: list[object], words: str) -> None:
    with pytest.raises(UserError, match=words):
        judges.replies(lines(tmp_path / "r.jsonl", rows), 10)


def test_a_parquet_file_that_cannot_be_used_is_explained(tmp_path: Path) -> None:
    """One that is not there, one that is none, and one of something else."""
    other, broken = tmp_path / "other.parquet", tmp_path / "broken.parquet"
    pq.write_table(pa.table({"question": ["q"], "answer": ["a"]}), other)
    broken.write_bytes(b"PAR1")
    for file, words in {
        tmp_path / "gone.parquet": "cannot",
        broken: "cannot",
        other: "no column 'reference'",
    }.items():
        with pytest.raises(UserError, match=f"{file.name}: .*{words}"):
            judges.replies(file, 10)


def test_a_judge_sees_the_photograph_where_there_is_one(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "p.png")
    file = lines(tmp_path / "r.jsonl", [row(0), row(1, image="p.png"), row(2, image="gone.png")])
    asked = judges.replies(file, 10)
    with (
        evil.serving(lambda *_: (200, {}, evil.chat('{"score": 0.5}'))) as server,
        llm.Client(Api(model="m"), tmp_path / "calls.db", server.url) as client,
    ):
        assert judges.scores(client, asked[:2]) == [0.5, 0.5]
        assert ["data:image" in body.decode() for body in sorted(server.asked, key=len)] == [False, True]
        with pytest.raises(UserError, match=r"gone\.png: the photograph cannot be read"):
            judges.scores(client, asked)


def test_the_replies_that_differ_most_come_first() -> None:
    asked = [Judged(f"q{n}", "r", "a") for n in range(4)]
    found = judges.furthest(asked, [1.0, 0.0, None, 0.5], [0.9, 1.0, 1.0, 0.5], 5)
    assert [(one.question, a, b) for one, a, b in found] == [("q1", 0.0, 1.0), ("q0", 1.0, 0.9)]


def test_the_command_compares_two_judges_and_pays_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = lines(tmp_path / "r.jsonl", list(map(row, range(6))))
    monkeypatch.setenv("PREFECT_HOME", str(tmp_path / "prefect"))

    def scoring(_: int, body: bytes) -> evil.Answer:
        lenient = json.loads(body)["model"] == "lenient"
        odd = (
            int(
                body.split(b"answer: red ")[-1][:1]
                if b"answer: red " in body
                else body.split(b"red ")[-1][:1]
            )
            % 2
        )
        return 200, {}, evil.chat(json.dumps({"score": 1.0 if lenient or odd else 0.2}))

    with evil.serving(scoring) as server:
        arguments = [
            "judge-agreement",
            "--config",
            "smoke",
            "--replies",
            str(file),
            "--other",
            "model=lenient",
        ]
        for name, value in {
            "store": tmp_path,
            "grpo.judge.base_url": server.url,
            "grpo.judge.model": "strict",
        }.items():
            arguments += ["--set", f"{name}={value}"]
        for _ in range(2):
            said = CliRunner().invoke(app, arguments)
            assert said.exit_code == 0, said.output
            assert "right for one, wrong for the other  50.0 %" in said.output
            assert re.search(r"0\.20 and 1\.00 +q0", said.output)
        found = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
        assert found["agreement"]["turned"] == 0.5 and len(found["furthest"]) == 3
        assert len(server.asked) == 12


def test_a_judge_that_cannot_be_is_refused(tmp_path: Path) -> None:
    for other, words in {"nope=1": "there is no such field", "model": "write FIELD=VALUE"}.items():
        said = CliRunner().invoke(
            app, ["judge-agreement", "--config", "smoke", "--set", f"store={tmp_path}", "--other", other]
        )
        assert isinstance(said.exception, UserError)
        assert words in str(said.exception)

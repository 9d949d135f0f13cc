"""Every benchmark through the whole evaluation, from small files in each of its published formats."""

import dataclasses
import itertools
import json
from contextlib import nullcontext

import numpy as np
import pytest

from sifthinker import config, llm
from sifthinker.core import depth_maps, tables
from sifthinker.evaluation import evaluate, statistics
from sifthinker.evaluation.benchmarks import (
    BENCHMARKS,
    replies,
)
from sifthinker.evaluation.benchmarks.question import Question
from sifthinker.evaluation.progress import _NOTHING
from sifthinker.evaluation.statistics import bootstrap
from sifthinker.models import loading, serving
from tests.evaluation.benchmarks.published_files import FORMS, written


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

"""`sif judge-agreement`: what replacing the judge changes."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows import server
from flows.commands.options import DEMO, ConfigOption, SetOption, StoreOption, load, refusing
from flows.commands.tables import Column, JsonOption, Printed
from sifthinker import config as configuration
from sifthinker.config import Api
from sifthinker.core.errors import UserError
from sifthinker.store.artifacts import Store

if TYPE_CHECKING:
    from sifthinker.evaluation.judges import Agreement

EXAMPLES = 3
FURTHEST = (
    Column("scores", lambda row: f"{row['a']:.2f} and {row['b']:.2f}"),
    Column("question", "question"),
    Column("right", "reference"),
    Column("answer", lambda row: str(row["answer"][:200])),
)


def judge_agreement(
    other: Annotated[
        list[str],
        typer.Option(
            help="a field of the other judge, e.g. model=NAME; may be repeated", metavar="FIELD=VALUE"
        ),
    ],
    replies: Annotated[
        Path | None,
        typer.Option(
            help="predictions.parquet, or JSON lines with question, reference, answer and image; default: the "
            "store's latest evaluation, judged without pictures",
            metavar="FILE",
        ),
    ] = None,
    rows: Annotated[int, typer.Option(min=2, help="maximum number of replies (a seeded sample)")] = 200,
    config: ConfigOption = DEMO,
    set_: SetOption = [],  # noqa: B006 (typer copies it)
    store: StoreOption = None,
    json_: JsonOption = False,
) -> None:
    """Asks two judges about the same replies: the configuration's (grpo.judge), and one with other fields. Paid once."""
    resolved = load(config, set_, store=store)
    with refusing(resolved):
        server.settings(resolved.store)
        from sifthinker import llm
        from sifthinker.evaluation import judges
        from sifthinker.llm import bookkeeping
        from tasks.runtime.endpoint import answering

        first = resolved.grpo.judge
        second = _other(first, other)
        opened = Store.of(resolved)
        asked = judges.replies(replies or _predictions(opened), rows)
    found: list[list[float | None]] = []
    with tempfile.TemporaryDirectory(prefix="sif-judges-") as folder:
        for number, api in enumerate((first, second)):
            work = Path(folder) / str(number)
            work.mkdir()
            log = logging.getLogger(__name__)
            with (
                answering(api, work, "judge-agreement", log) as url,
                llm.Client(api, bookkeeping.place(opened.root), url, scope="judge") as client,
            ):
                found.append(judges.scores(client, asked))
    names = (f"{first.base_url} {first.model}", f"{second.base_url} {second.model}")
    with Printed(json_, "agreement", "furthest") as printed:
        _show(printed, names, judges.agreement(found[0], found[1]))
        furthest = [
            {"a": a, "b": b, "question": one.question, "reference": one.reference, "answer": one.answer}
            for one, a, b in judges.furthest(asked, found[0], found[1], EXAMPLES)
        ]
        printed.table("furthest", FURTHEST, furthest, title="Where they are furthest apart:")


def _show(printed: Printed, names: tuple[str, str], measured: Agreement) -> None:
    heads, *lines = measured.table(names)
    printed.lines(heads, lines)
    printed.value("judges", names)
    printed.value("agreement", measured)


def _other(first: Api, given: list[str]) -> Api:
    """The judge with other fields. Another address or preset is another endpoint: nothing of the first one's is kept."""
    fields: dict[str, Any] = {}
    for text in given:
        field, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--other {text}: write FIELD=VALUE, e.g. model=NAME")
        fields[field] = configuration.parse_value(value, f"--other {field}")
    kept = {} if {"base_url", "preset"} & fields.keys() else first.model_dump()
    return configuration.parse({"scenes": {}, "grpo": {"judge": {**kept, **fields}}}, "--other").grpo.judge


def _predictions(store: Store) -> Path:
    """The replies of the store's latest evaluation."""
    for manifest in store.manifests("evaluate"):
        found = store.find("evaluate", manifest["key"])
        if found is not None:
            return found.path / "predictions.parquet"
    raise UserError(f"judge-agreement: {store.root} has no evaluation; give a file of replies with --replies")

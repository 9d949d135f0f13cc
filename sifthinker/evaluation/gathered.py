"""What rows of an ablation say together that are made over days, each by itself (`kept_rows`).

Tables are drawn of them at any time. Rows that were asked other questions, begin at other weights, or were scored by other
rules are never in one table, and a stage that was made with other code than in another row is named below it.
"""

from __future__ import annotations

import math
import re
import statistics as means
import tempfile
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np

from sifthinker.core import tables
from sifthinker.core.errors import UserError
from sifthinker.core.scores import rules as read_rules
from sifthinker.evaluation import ablation, gate, learning_curves, over_seeds, row_pictures
from sifthinker.evaluation.benchmarks import SAMPLED
from sifthinker.evaluation.kept_rows import PREDICTIONS, Reply, Row, rows
from sifthinker.evaluation.row_pictures import Compared
from sifthinker.system.files import whole

_BEGINNING = "policy-weights"
_TRAINED = {"sft", "grpo"}  # stages
# As far as there is something to draw.
PICTURES = ("table.png", "differences.png", "by-number.png", "curves.png")


def comparable(found: Sequence[Row]) -> list[list[Row]]:
    """The rows in sets with the same questions, weights to begin at, and rules of scoring; the largest set first."""
    sets: dict[tuple[str, str, str], list[Row]] = defaultdict(list)
    for row in found:
        begun = row.made["stages"].get(_BEGINNING, {}).get("digest", "")
        sets[row.made["questions"], begun, _rules(row)].append(row)
    return sorted(sets.values(), key=len, reverse=True)


def _rules(row: Row) -> str:
    """By which rules the benchmarks of a row were scored: scores by other ones would differ for the rules."""
    versions = read_rules(row.folder)
    alike = set(versions.values())
    return ", ".join(
        map(str, alike) if len(alike) == 1 else (f"{of} {n}" for of, n in sorted(versions.items()))
    )


def draw(
    folder: Path,
    order: Sequence[str],
    pairs: Sequence[tuple[str, str]],
    weights: str,
    pictured: Collection[str] = (),
) -> str:
    """Writes `results.md`, and pictures (`PICTURES`) of the largest set of rows; returns the Markdown.

    Args:
        folder: of the kept rows.
        order: the names of the rows as they are to be shown; others come last.
        pairs: rows that are compared, the second with the first as its reference.
        weights: `model.weights`, of which a table says what they are.
        pictured: the rows with a line of their own in `by-number.png` and `curves.png`; none, or none of them there: all.
    """
    sets = comparable(rows(folder))
    if not sets:
        raise UserError(
            f"{folder}: holds no row yet; `sif ablation --row NAME --keep {folder}` makes and keeps one"
        )
    known = {name: place for place, name in enumerate(order)}
    parts = []
    rules = {_rules(alike[0]) for alike in sets}
    for number, alike in enumerate(sets):
        by_name: dict[str, list[Row]] = defaultdict(list)
        for row in sorted(alike, key=lambda row: known.get(row.name, len(known))):
            by_name[row.name].append(row)
        tests = _tests(by_name, pairs)
        section = _section(by_name, tests)
        parts.append(f"Scored by the rules {_rules(alike[0])}.\n\n{section}" if len(rules) > 1 else section)
        if not number:
            _draw_pictures(folder, by_name, tests, weights, pictured)
    text = "\n\n".join(parts) + "\n"
    with whole(folder / "results.md") as temporary:
        temporary.write_text(text, encoding="utf-8")
    return text


def _section(by_name: Mapping[str, Sequence[Row]], tests: Sequence[Compared]) -> str:
    """The tables of rows that can be compared."""
    replies = {name: [_replies(row) for row in of] for name, of in by_name.items()}
    first = next(iter(by_name.values()))[0].made
    begun = first["stages"].get(_BEGINNING, {}).get("digest", "unknown")
    lines = [f"Questions {first['questions']}, weights {begun}.", "", *_by_kind(replies)]
    lines += ["", *_compared(by_name, tests), "", *_provenance(by_name)]
    return "\n".join(lines)


def _draw_pictures(
    folder: Path,
    by_name: Mapping[str, Sequence[Row]],
    tests: Sequence[Compared],
    weights: str,
    pictured: Collection[str],
) -> None:
    """Writes the pictures that there is something to draw for, and removes older ones of the others."""
    paths = {name: {row.made["seed"]: row.folder for row in of} for name, of in by_name.items()}
    chosen = [name for name in by_name if name in pictured] or [*by_name]
    curves = {name: [learning_curves.read(path) for path in of.values()] for name, of in paths.items()}
    numbered = {name: [_replies(row) for row in by_name[name]] for name in chosen}
    drawn = {
        "table.png": _table_picture(folder, by_name, paths, weights),
        "differences.png": row_pictures.differences(tests) if tests else None,
        "by-number.png": row_pictures.by_number(_panels(numbered)),
        "curves.png": learning_curves.picture(curves, chosen),
    }
    for name in PICTURES:
        if content := drawn[name]:
            with whole(folder / name) as temporary:
                temporary.write_bytes(content)
        else:
            (folder / name).unlink(missing_ok=True)


def _table_picture(
    folder: Path, by_name: Mapping[str, Sequence[Row]], paths: ablation.Rows, weights: str
) -> bytes | None:
    """The picture of an ablation's table; None where no score is to be drawn."""
    untrained = [name for name, of in by_name.items() if not _is_trained(of)]
    with tempfile.TemporaryDirectory(dir=folder, prefix=".drawn.") as name:
        ablation.write(Path(name), paths, next(iter(by_name)), weights, untrained)
        picture = Path(name, "table.png")
        return picture.read_bytes() if picture.exists() else None


def _replies(row: Row) -> list[Reply]:
    return [reply for reply in tables.read(row.folder / PREDICTIONS) if reply["strict"] is not None]


def _parts(reply: Reply) -> dict[str, float]:
    """What a reply is scored for: its answer, boxes, depths and form, or its one score as the answer."""
    parts = dict(reply["parts"] or ()) or {"answer": float(reply["strict"])}
    if str(reply["benchmark"]).endswith(SAMPLED):
        return {f"{part},{SAMPLED}": score for part, score in parts.items()}
    return parts


def _kind(reply: Reply) -> tuple[str, str]:
    """The kind of question, and how many things its scene has, "" where the group does not say: "count-4", "kitchen"."""
    group = str(reply["group"] or reply["benchmark"].removesuffix(SAMPLED))
    numbered = re.fullmatch(r"(.+)-(\d+)", group)
    return (numbered[1], numbered[2]) if numbered else (group, "")


def _kinds(replies: Iterable[Reply]) -> list[str]:
    """The kinds that are told apart: none where there is one alone, which all questions are then of."""
    found = sorted({_kind(reply)[0] for reply in replies})
    return found if len(found) > 1 else []


def _mean(
    seeds: Sequence[Sequence[Reply]], part: str, kind: str | None = None, number: str | None = None
) -> tuple[float, float, int]:
    """Mean of 100 over the seeds, its standard error (questions and seeds), and questions a seed; NaN of none.

    The questions about one image count as one. The error of a single image's questions is not known: NaN.

    Args:
        seeds: the replies of a row.
        part: what is scored of them.
        kind: of the questions; None: all.
        number: of things in the scene; None: any.
    """
    by_seed: list[list[float]] = []
    images: list[str] = []
    for of in seeds:
        chosen = [
            reply
            for reply in of
            if kind in (None, _kind(reply)[0]) and number in (None, _kind(reply)[1]) and part in _parts(reply)
        ]
        by_seed.append([_parts(reply)[part] for reply in chosen])
        images += [reply["image_sha256"] for reply in chosen]
    if not all(by_seed):
        return math.nan, math.nan, 0
    averages = [means.fmean(values) for values in by_seed]
    # The seeds share their questions, so their replies about one image are one group too.
    error = math.sqrt(over_seeds.by_questions(np.concatenate(by_seed), images).variance)
    if len(averages) > 1:
        error = math.hypot(error, means.stdev(averages) / math.sqrt(len(averages)))
    return 100 * means.fmean(averages), 100 * error if math.isfinite(error) else math.nan, len(by_seed[0])


def _by_kind(replies: Mapping[str, Sequence[Sequence[Reply]]]) -> list[str]:
    """A table of the answers by kind, and of what else is scored; of sampled replies without the kinds."""
    every = [reply for of in replies.values() for seed in of for reply in seed]
    kinds = _kinds(every)
    others = sorted({part for reply in every for part in _parts(reply)} - {"answer"})
    heads = ["answer", *(f"answer, {kind}" for kind in kinds), *others]
    lines = [f"| row | seeds | {' | '.join(heads)} |", f"|---|---:|{'---:|' * len(heads)}"]
    for name, of in replies.items():
        cells = [_mean(of, "answer"), *(_mean(of, "answer", kind) for kind in kinds)]
        cells += [_mean(of, part) for part in others]
        lines.append(f"| {name} | {len(of)} | {' | '.join(_cell(*cell) for cell in cells)} |")
    asked = Counter(_kind(reply)[0] for reply in next(iter(replies.values()))[0] if "answer" in _parts(reply))
    counts = ", ".join(f"{count} {kind}" for kind, count in sorted(asked.items()))
    return [
        *lines,
        "",
        "Means of 100 ± standard errors over questions (by image: those about one count as one) and seeds; "
        f"questions a seed: {counts}.",
    ]


def _cell(mean: float, error: float, count: int) -> str:
    """A cell of the table; without an error where it is not known."""
    if not count:
        return "–"
    return f"{mean:.0f}" if math.isnan(error) else f"{mean:.0f} ± {error:.0f}"


def _tests(by_name: Mapping[str, Sequence[Row]], pairs: Sequence[tuple[str, str]]) -> list[Compared]:
    """The pairs by answers, of all questions and of each kind, and by what else is scored; Holm over all of them."""
    tests: list[tuple[str, str, over_seeds.Difference]] = []
    for before, after in pairs:
        if before not in by_name or after not in by_name:
            continue
        old, new = ({row.made["seed"]: _replies(row) for row in by_name[name]} for name in (before, after))
        trained = _is_trained(by_name[before]), _is_trained(by_name[after])
        every = [reply for of in new.values() for reply in of]
        others = sorted({part for reply in every for part in _parts(reply)} - {"answer"})
        tested: list[tuple[str, str, str | None]] = [
            ("answer", "answer", None),
            *((f"answer, {kind}", "answer", kind) for kind in _kinds(every)),
            *((part, part, None) for part in others),
        ]
        for said, part, kind in tested:
            found = over_seeds.compare(_scored(old, part, kind), _scored(new, part, kind), trained)
            if found:
                tests.append((f"{after} against {before}", said, found))
    judged = over_seeds.judge([found for *_, found in tests])
    return [Compared(what, said, found, p) for (what, said, found), p in zip(tests, judged, strict=True)]


def _compared(by_name: Mapping[str, Sequence[Row]], tests: Sequence[Compared]) -> list[str]:
    """The table of the tests."""
    if not tests:
        return ["No two rows that are to be compared are there yet."]
    lines = [
        "| paired by question | score | questions | seeds | difference | 95 % interval | p, Holm |",
        "|---|---|---:|---:|---:|---|---:|",
    ]
    for test in tests:
        one = test.found
        lines.append(
            f"| {test.what} | {test.score} | {one.questions} | {_counts(one.seeds)} | {100 * one.mean:+.1f} "
            f"| {100 * one.low:+.1f} to {100 * one.high:+.1f} | {test.p:.2g} |"
        )
    return [
        *lines,
        "",
        f"p is two-sided, corrected over the {len(tests)} tests of this table.{_of_one(by_name)}",
    ]


def _of_one(by_name: Mapping[str, Sequence[Row]]) -> str:
    """What the intervals of rows leave out that were trained with one seed."""
    alone = [name for name, of in by_name.items() if len(of) == 1 and _is_trained(of)]
    if not alone:
        return ""
    return f" How far other seeds would be apart is not known of {', '.join(alone)}, which have one."


def _is_trained(of: Sequence[Row]) -> bool:
    """Whether a row depends on its seed."""
    return bool(_TRAINED & of[0].made["stages"].keys())


def _counts(seeds: tuple[int, int]) -> str:
    """Of how many seeds the earlier and the later row are."""
    old, new = seeds
    return str(old) if old == new else f"{old} and {new}"


def _scored(
    row: Mapping[int, Sequence[Reply]], part: str, kind: str | None
) -> dict[int, list[gate.ScoredReply]]:
    """One score of a row's replies, by seed; `kind` chooses the questions, and None takes all."""
    return {
        seed: [
            gate.ScoredReply(
                tuple(reply[name] for name in gate.COLUMNS[1:-1]), reply["image_sha256"], _parts(reply)[part]
            )
            for reply in of
            if part in _parts(reply) and kind in (None, _kind(reply)[0])
        ]
        for seed, of in row.items()
    }


def _provenance(by_name: Mapping[str, Sequence[Row]]) -> list[str]:
    """When and with what each row was made, and which stages were not all made with the same code."""
    lines = ["| row | seed | made | stages, minutes | by |", "|---|---:|---|---:|---|"]
    codes: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for of in by_name.values():
        for row in of:
            made, run = row.made, str(row.made["run"]).replace("|", r"\|")
            lines.append(
                f"| {row.name} | {made['seed']} | {made['made']} | {made['seconds'] / 60:.0f} | {run} |"
            )
            for label, stage in made["stages"].items():
                codes[label][stage["code"]].append(f"{row.name}.{made['seed']}")
    apart = [
        f"* {label}: " + "; ".join(f"{code} in {', '.join(names)}" for code, names in sorted(of.items()))
        for label, of in sorted(codes.items())
        if len(of) > 1
    ]
    said = ["", "Stages that were not made with the same code in all rows:", "", *apart] if apart else []
    return [*lines, *said]


def _panels(replies: Mapping[str, Sequence[Sequence[Reply]]]) -> list[row_pictures.Panel]:
    """A panel a kind of question, for the picture by the number of things."""
    found = {_kind(reply) for of in replies.values() for seed in of for reply in seed}
    panels = []
    for kind in sorted({kind for kind, _ in found}):
        numbers = sorted((number for of, number in found if of == kind), key=lambda n: (len(n), n))
        rows = {
            name: [_mean(of, "answer", kind, number)[:2] for number in numbers]
            for name, of in replies.items()
        }
        panels.append(row_pictures.Panel(kind, numbers, rows))
    return panels

"""Names that say what a run is: what a person typed, else the configuration and what differs from it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import resources
from typing import Any

import coolname.data
from prefect import get_client
from prefect.context import FlowRunContext

from sifthinker.config import Config, is_operational
from tasks.runtime.pipeline import Partial

SHOWN = 2  # settings in a name; of more, how many
LONGEST = 60  # characters of a setting
# What Prefect's forms put into the field of the name before anybody types: "mu815-antede-boundary" or
# "tau-chinaha" in the present one, "Awesome-Frog" in the new one. Nothing else tells a name that was typed.
_STARS = (
    "alpha beta gamma delta epsilon zeta eta theta iota kappa lambda mu nu xi omicron pi rho sigma tau upsilon phi chi psi "
    "omega"
)
_SPACES = (
    "adjunct anomaly band boundary cloud cluster collapse conflux expanse field fringe instability manifold mass nebula "
    "point quadrant reach ring sector shift tensor terminus vector void warp [a-z]"
)
_FIRST = (
    "Awesome Rustic Small Gorgeous Fantastic Sleek Intelligent Unbranded Refined Licensed Generic Practical Ergonomic "
    "Handcrafted Tasty Handmade Incredible"
)
_FORMS = re.compile(
    rf"(?:{'|'.join(_STARS.split())})(?:\d+-[a-z]+(?:-[a-z]+)*|-[a-z]+(?:-[a-z]+)?-(?:{'|'.join(_SPACES.split())}))"
    rf"|(?:{'|'.join(_FIRST.split())})-[A-Z]?[a-z]+"
)


def call(what: str) -> str:
    """Names the flow run that is under way, unless a person did; its name."""
    context = FlowRunContext.get()
    assert context and context.flow_run
    run = context.flow_run
    if generated(run.name):
        with get_client(sync_client=True) as client:
            client.set_flow_run_name(run.id, what)
        run.name = what
    return run.name


def generated(name: str) -> bool:
    """Whether nobody typed this name: Prefect's server made it, or put it into its form."""
    words = name.split("-")
    if len(words) == 2 and _words().issuperset(words):
        return True
    letter, _, star = name.partition("-")
    return (letter in _STARS.split() and star in _named_stars()) or _FORMS.fullmatch(name) is not None


def of_part(config: Config, lines: Sequence[str], partial: Partial) -> str:
    """What a run is: "demo grpo.learning_rate=3e-05 from grpo". `lines` are its settings, `FIELD=VALUE`."""
    parts = [config.name, *settings(lines)]
    again = ", ".join(partial.refresh)
    for word, stages in (("from", partial.start_at), ("until", partial.stop_after), ("again", again)):
        parts += [f"{word} {stages}"] if stages else []
    return " ".join(parts)


def refused(given: str, lines: Sequence[str]) -> str:
    """What a run is whose form has a mistake: "refused: demo grpo.lerning_rate=1". `given` is its configuration's name, or YAML."""
    name = given.strip()
    return " ".join(["refused:", "pasted YAML" if "\n" in name else name[:LONGEST], *settings(lines)])


def settings(lines: Sequence[str]) -> list[str]:
    """The settings that a name shows: without those that change no result."""
    given = [line.partition("=") for line in lines]
    fields = [
        line if len(line := f"{field.strip()}={value.strip()}") <= LONGEST else f"{line[: LONGEST - 1]}…"
        for field, _, value in given
        if field.strip() != "name" and not is_operational(field.strip())
    ]
    return fields[:SHOWN] + ([f"+{len(fields) - SHOWN} more"] if len(fields) > SHOWN else [])


@cache
def _words() -> frozenset[str]:
    """The words of which Prefect's server makes names, two of them."""
    entries: Iterable[Any] = coolname.data.config.values()
    lists = (entry.get("words", ()) for entry in entries)
    return frozenset(word for words in lists for word in words)


@cache
def _named_stars() -> frozenset[str]:
    """The stars of which Prefect's form makes names, such as "tau-chinaha", where it adds no third part."""
    return frozenset((resources.files("flows") / "form_stars.txt").read_text(encoding="utf-8").split())

"""What a configuration may name comes from the tables, and a wrong name is explained."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from pydantic import BaseModel, ValidationError

from sifthinker.config import Benchmark, Grpo, choices
from sifthinker.data.sources import SOURCES
from sifthinker.training.samplers import SAMPLERS, Sampler


class Chosen(BaseModel):
    """A section with each kind of name, and a tuple of names."""

    source: Annotated[str, choices.Named("source")] = "viscot"
    benchmarks: tuple[Annotated[str, choices.Named("benchmark")], ...] = ()


@pytest.mark.parametrize("kind", choices.KINDS)
def test_every_kind_has_a_table_with_names(kind: str) -> None:
    names = choices.known(kind)
    assert names
    assert all(isinstance(name, str) for name in names)


def test_a_new_entry_of_a_table_is_a_new_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValidationError, match="no source named 'gqa'"):
        Chosen(source="gqa")
    monkeypatch.setitem(SOURCES, "gqa", SOURCES["viscot"])
    assert Chosen(source="gqa").source == "gqa"
    assert "gqa" in Chosen.model_json_schema()["properties"]["source"]["enum"]


def test_the_json_schema_lists_the_names_for_the_form() -> None:
    properties = Chosen.model_json_schema()["properties"]
    assert properties["source"]["enum"] == choices.known("source")
    assert properties["benchmarks"]["items"]["enum"] == choices.known("benchmark")


def test_a_misspelt_name_is_answered_with_the_right_one_and_all_others() -> None:
    with pytest.raises(
        ValidationError, match=r"no source named 'visct'; did you mean 'viscot'\? Known: viscot, tallyqa"
    ):
        Chosen(source="visct")


def test_an_unknown_benchmark_is_refused_with_the_known_ones() -> None:
    with pytest.raises(
        ValidationError, match=r"no benchmark named 'vstat'; did you mean 'vstar'\? Known: vstar"
    ):
        Benchmark(name="vstat", path=Path("x"), images=Path("x"))


def test_a_new_back_end_for_sampling_is_a_new_choice(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(SAMPLERS, "mine", Sampler())
    assert Grpo(generation="mine").generation == "mine"
    offered = Grpo.model_json_schema()["properties"]["generation"]["enum"]
    assert offered[0] == "auto" and offered[-1] == "mine"

"""The two sets of exact versions: all that is needed is pinned, what is pinned is needed, and the pins fit together.

What fits by its own metadata may still break: what Prefect relies on in silence is in tests/infra/test_prefect.py.
"""

from __future__ import annotations

import ast
import re
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, packages_distributions, requires, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

from sifthinker.upkeep.findings import Finding
from tasks.operations.doctor import NEEDS, needs

ROOT = Path(__file__).parents[2]
FILES = ("constraints.txt", "constraints-py312.txt")
DIFFERENT = {"torch", "transformers", "huggingface-hub", "setuptools"}
TOGETHER = "constraints-vllm.txt"  # vLLM and the training programs in one environment, without Prefect
# What differs there from constraints.txt, and what vLLM 0.31 says of it, itself or by its numba and transformers.
OLDER = {"fastapi": "<0.137", "numpy": "<2.4", "transformers": "<5.18", "huggingface-hub": "<2"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
BUILD = {"setuptools", "wheel", "ninja"}  # the Makefile and the Dockerfiles install them by name
# Extras that a usual environment does not have, and what they bring beside what is needed anyway (2026-11-30).
ELSEWHERE = {
    "shapely": "",
    "mlflow-skinny": "databricks-sdk gitdb gitpython google-auth importlib-metadata opentelemetry-proto opentelemetry-sdk "
    "opentelemetry-semantic-conventions pyasn1 pyasn1-modules smmap sqlparse",
    "wandb": "cwevals distro googleapis-common-protos opentelemetry-exporter-http-transport opentelemetry-exporter-otlp-common "
    "opentelemetry-exporter-otlp-proto-common opentelemetry-exporter-otlp-proto-http",
}
ROOMS = ("sifthinker", "tasks", "flows", "infra", "tests")
PYTHON = {"python_version": "3.11", "python_full_version": "3.11.14"}  # what the first file is for


def pins(name: str) -> dict[str, str]:
    lines = (ROOT / name).read_text(encoding="utf-8").splitlines()
    return {canonicalize_name((pin := line.split("=="))[0]): pin[1] for line in lines if line[:1] != "#"}


def direct() -> list[Requirement]:
    lines = [
        *PROJECT["dependencies"],
        *(x for extra in PROJECT["optional-dependencies"].values() for x in extra),
    ]
    return [Requirement(line) for line in lines]


def closure() -> Iterator[Requirement]:
    """All that the dependencies and extras of pyproject.toml need, by what is installed here says of itself."""
    todo, seen = direct(), set()
    while todo:
        found = todo.pop()
        yield found
        name = canonicalize_name(found.name)
        extras = frozenset(found.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        try:
            further = [Requirement(line) for line in requires(found.name) or []]
        except PackageNotFoundError:  # an extra that is not installed here
            continue
        for one in further:
            if one.marker is None or any(one.marker.evaluate({**PYTHON, "extra": e}) for e in ("", *extras)):
                todo.append(one)


def test_the_set_for_python_3_12_differs_where_it_must_and_nowhere_else() -> None:
    usual, other = pins(FILES[0]), pins(FILES[1])
    assert usual.keys() == other.keys()
    assert {name for name in usual if usual[name] != other[name]} == DIFFERENT


def test_the_set_with_vllm_differs_where_vllm_wants_it_and_nowhere_else() -> None:
    usual, vllm, together = pins(FILES[0]), pins("docker/vllm.txt"), pins(TOGETHER)
    assert {name for name in usual.keys() & together.keys() if usual[name] != together[name]} == OLDER.keys()
    assert not [name for name, bound in OLDER.items() if together[name] not in SpecifierSet(bound)]
    assert all(together[name] == vllm[name] for name in together.keys() - usual.keys())
    # Without CUDA's own packages (vLLM brings them), all that vLLM's environment has is there, and all that trains.
    assert vllm.keys() <= together.keys()
    train = [Requirement(line) for line in PROJECT["optional-dependencies"]["train"]]
    assert not [
        str(one) for one in train if together.get(canonicalize_name(one.name), "0") not in one.specifier
    ]
    assert "prefect" not in together, "it wants a newer fastapi than vLLM"


@pytest.mark.parametrize("file", FILES)
def test_every_dependency_is_pinned_to_a_version_that_pyproject_allows(file: str) -> None:
    there = pins(file)
    wrong = [
        f"{found}: {there.get(name, 'not pinned')}"
        for found in direct()
        if (name := canonicalize_name(found.name)) not in there or there[name] not in found.specifier
    ]
    assert not wrong


def test_all_that_is_needed_is_pinned_and_nothing_else() -> None:
    absent = [found.name for found in direct() if not _installed(found.name)]
    if missing := [name for name in absent if name not in ELSEWHERE]:
        pytest.skip(f"what they need is not known here: {', '.join(missing)}; pip install -e '.[train,dev]'")
    there = pins(FILES[0])
    needed = {canonicalize_name(found.name) for found in closure()}
    needed |= {name for missing in absent for name in ELSEWHERE[missing].split()}
    assert needed - there.keys() == set(), "needed, but not pinned"
    assert there.keys() - needed - BUILD == set(), "pinned, but not needed"


def test_every_pin_is_one_that_all_who_need_it_accept() -> None:
    there = pins(FILES[0])
    found = {(one.name, str(one.specifier)) for one in closure()}
    wrong = [
        f"{name}{bound}" for name, bound in found if there[canonicalize_name(name)] not in SpecifierSet(bound)
    ]
    assert not wrong


def test_what_is_imported_is_a_dependency_in_its_own_right() -> None:
    """A package that comes with another one goes, or changes, with it."""
    declared = {canonicalize_name(found.name) for found in direct()}
    offers = packages_distributions()
    strangers = {
        f"{file.relative_to(ROOT)}: {module}"
        for room in ROOMS
        for file in (ROOT / room).rglob("*.py")
        for module in _imported(file)
        if module in offers and not declared & {canonicalize_name(name) for name in offers[module]}
    }
    assert not strangers


def _imported(file: Path) -> set[str]:
    """The top-level names of the modules that a file imports."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [n.module for n in nodes if isinstance(n, ast.ImportFrom) and n.module and not n.level]
    return {name.split(".")[0] for name in names} - set(ROOMS)


@pytest.mark.parametrize("file", FILES)
def test_the_pins_are_ones_that_prefect_works_with(file: str) -> None:
    """Its own metadata allows newer ones, with which no schedule makes a run, or every flow fails."""
    assert NEEDS.keys() <= {found.name for found in direct()}, (
        "pyproject.toml holds them too, without constraints"
    )
    assert _only(needs(pins(file))).verdict == "ok"


@pytest.mark.parametrize(
    ("installed", "verdict", "says"),
    [
        ({"sqlalchemy": "2.0.58", "fastapi": "0.150.0"}, "ok", "sqlalchemy 2.0.58"),
        ({"sqlalchemy": "2.1.9", "fastapi": "0.150.0"}, "error", "no schedule makes a run"),
        ({"sqlalchemy": "2.1.0rc1", "fastapi": "0.150.0"}, "error", "sqlalchemy 2.1.0rc1 is not <2.1"),
        ({"sqlalchemy": "2.0.58", "fastapi": "0.165.0"}, "error", "every flow fails"),
    ],
)
def test_doctor_names_versions_that_prefect_accepts_and_fails_with(
    installed: dict[str, str], verdict: str, says: str
) -> None:
    found = _only(needs(installed))
    assert found.verdict == verdict and says in found.found
    assert ("pip install" in found.todo) == (verdict == "error")


def test_the_packages_here_are_ones_that_prefect_works_with() -> None:
    assert _only(needs()).verdict == "ok"


def _installed(name: str) -> bool:
    try:
        return bool(version(name))
    except PackageNotFoundError:
        return False


def _only(findings: Iterator[Finding]) -> Finding:
    [found] = findings
    return found


@pytest.mark.parametrize("file", sorted((ROOT / "docker").glob("*.Dockerfile")), ids=lambda file: file.name)
def test_an_image_names_no_other_version_than_the_pin(file: Path) -> None:
    lines = [line for line in file.read_text(encoding="utf-8").splitlines() if "-c constraints.txt" in line]
    named = dict(re.findall(r" ([A-Za-z][\w-]*)==([\w.]+)", " ".join(lines)))
    there = pins(FILES[0])
    assert {name: there.get(canonicalize_name(name)) for name in named} == named

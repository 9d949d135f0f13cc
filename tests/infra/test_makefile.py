"""The Makefile: what must not happen by one short word, and its list of targets."""

import re
import subprocess
from pathlib import Path

import pytest

from tests.conftest import LONGEST, ROOMS, TESTS
from tests.infra.conftest import ROOT

TEXT = (ROOT / "Makefile").read_text(encoding="utf-8")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = ["make", "--no-print-directory", "-f", str(ROOT / "Makefile"), *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    store = tmp_path / "store"
    store.mkdir()
    (store / "calls.sqlite").write_bytes(b"a ledger")
    return store


@pytest.mark.parametrize("sure", ["", "SURE=", "SURE=no"])
def test_clean_keeps_a_store_with_its_ledger_until_it_is_told_to_be_sure(store: Path, sure: str) -> None:
    done = make("clean", f"STORE={store}", *([sure] if sure else []))
    assert done.returncode and (store / "calls.sqlite").exists()
    assert "ledger of paid calls" in done.stdout and "make clean SURE=yes" in done.stdout


def test_clean_deletes_the_store_when_it_is_told_to_be_sure(store: Path) -> None:
    done = make("clean", "SURE=yes", f"STORE={store}")
    assert done.returncode == 0, done.stderr
    assert not store.exists()


def test_help_lists_every_target_and_demo_is_the_default() -> None:
    targets = re.search(r"^\.PHONY: (.*)$", TEXT, re.MULTILINE)
    assert targets
    listed = [line.partition(":")[0] for line in make("help").stdout.splitlines()]
    assert sorted(listed) == sorted(targets[1].split())
    assert listed[0] == "demo"


def test_the_longest_files_are_there_and_start_first() -> None:
    assert not [name for name in LONGEST if not (TESTS / name).is_file()]
    assert not [room for room in ROOMS if not (TESTS / room).is_dir()]
    [line] = [line for line in TEXT.splitlines() if "--dist loadfile" in line]
    assert "--no-loadscope-reorder" in line, "else xdist sorts the files by their numbers of tests"

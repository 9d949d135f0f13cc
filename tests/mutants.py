"""Mutation testing with mutmut: `make mutants` (tests/README.md).

Each module is mutated in a folder of its own, build/mutants/<module>, and tested by its own test files only. The
survivors are printed as diffs, and kept there in survivors.txt.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORK = ROOT / "build" / "mutants"
PACKAGES = ("sifthinker", "tasks", "flows")
KILLED = {1, 3, 36, 24, -24, 152, 255}  # exit codes: a test failed, pytest broke down, or the time was up

# Module: the test files that must kill its mutants.
TESTS: dict[str, tuple[str, ...]] = {
    "sifthinker/core/boxes.py": ("tests/core/test_boxes.py", "tests/data/test_focus.py"),
    "sifthinker/core/chain.py": ("tests/core/test_chain.py", "tests/core/test_chain_reasons.py"),
    "sifthinker/core/depth_maps.py": ("tests/core/test_depth_maps.py",),
    "sifthinker/core/reasoning.py": ("tests/core/test_reasoning.py",),
    "sifthinker/core/rejects.py": ("tests/core/test_rejects.py",),
    "sifthinker/core/special_tokens.py": ("tests/core/test_special_tokens.py",),
    "sifthinker/data/expansion.py": ("tests/data/test_expansion.py", "tests/data/test_focus.py"),
    "sifthinker/rewards/answer.py": ("tests/rewards/test_answer.py",),
    "sifthinker/rewards/depth.py": ("tests/rewards/test_depth.py",),
    "sifthinker/rewards/format.py": ("tests/rewards/test_format.py",),
    "sifthinker/rewards/grounding.py": ("tests/rewards/test_grounding.py",),
    "sifthinker/annotation/acceptance.py": ("tests/annotation/test_acceptance.py",),
    "sifthinker/llm/completion.py": ("tests/llm/test_completion.py",),
    "sifthinker/llm/costs.py": ("tests/llm/test_costs.py",),
    "sifthinker/llm/judge.py": ("tests/llm/test_judge.py",),
    "sifthinker/llm/ledger.py": ("tests/llm/test_ledger.py", "tests/llm/test_ledger_sqlite.py"),
    "sifthinker/llm/usage.py": ("tests/llm/test_usage.py",),
    "sifthinker/evaluation/gate.py": ("tests/evaluation/test_gate.py",),
    "sifthinker/evaluation/power.py": ("tests/evaluation/test_power.py",),
    "sifthinker/evaluation/statistics.py": ("tests/evaluation/test_statistics.py",),
    "sifthinker/evaluation/benchmarks/metrics.py": ("tests/evaluation/benchmarks/test_metrics.py",),
    "sifthinker/evaluation/benchmarks/replies.py": (
        "tests/evaluation/benchmarks/test_replies.py",
        "tests/evaluation/benchmarks/test_chosen_options.py",
        "tests/evaluation/benchmarks/test_reply_problems.py",
    ),
}

SETTINGS = """[mutmut]
source_paths=
    {packages}
only_mutate={module}
pytest_add_cli_args_test_selection=
    {tests}
    -m
    not e2e and not slow
pytest_add_cli_args=
    --hypothesis-seed=0
    --hypothesis-profile=mutants
    -p
    no:cacheprovider
do_not_mutate_patterns=
    ^\\s*raise\\b
    \\blogger\\.\\w+\\(
timeout_multiplier=5
use_git_change_detection=false
"""  # the texts of errors and log lines are not mutated


def prepare(module: str) -> Path:
    """The folder in which mutmut works on one module; a changed module starts anew."""
    folder = WORK / module.removesuffix(".py").replace("/", ".")
    results = folder / "mutants" / f"{module}.meta"
    if results.exists() and results.stat().st_mtime < (ROOT / module).stat().st_mtime:
        shutil.rmtree(folder)
    shutil.rmtree(folder / "mutants" / "tests", ignore_errors=True)
    (folder / "mutants" / "mutmut-stats.json").unlink(missing_ok=True)  # which test reaches which function
    folder.mkdir(parents=True, exist_ok=True)
    for there in (*(ROOT / name for name in (*PACKAGES, "tests", "pyproject.toml")), ROOT.parent / "shared"):
        if there.exists() and not (folder / there.name).is_symlink():
            (folder / there.name).symlink_to(there)
    packages, tests = "\n    ".join(PACKAGES), "\n    ".join(TESTS[module])
    (folder / "setup.cfg").write_text(SETTINGS.format(packages=packages, module=module, tests=tests))
    return folder


def verdicts(folder: Path, module: str) -> dict[str, int | None]:
    """The exit code of the tests under each mutant; None where it has not been tested."""
    file = folder / "mutants" / f"{module}.meta"
    codes: dict[str, int | None] = json.loads(file.read_text())["exit_code_by_key"] if file.exists() else {}
    return codes


def mutmut(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs mutmut in a module's folder, on one process."""
    command = [sys.executable, "-c", "from mutmut.__main__ import cli; cli()", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def report(module: str, sample: int) -> str:
    """Tests mutants of a module: a sample of them, or all (0). A second run tests only what has not been killed."""
    folder = prepare(module)
    if not verdicts(folder, module):
        mutmut(folder, "run", "--max-children", "1", "none of them")  # makes the mutants, and fails
    codes = verdicts(folder, module)
    chosen = random.Random(0).sample(sorted(codes), min(sample, len(codes))) if sample else list(codes)
    if todo := [name for name in chosen if codes[name] not in KILLED]:
        done = mutmut(folder, "run", "--max-children", "1", *todo)
        codes = verdicts(folder, module)
        if done.returncode or None in map(codes.get, todo):
            raise SystemExit(f"{module}: mutmut failed\n{done.stdout[-4000:]}{done.stderr[-4000:]}")
    left = [name for name in chosen if codes[name] not in KILLED]
    diffs = [mutmut(folder, "show", name).stdout for name in left]
    (folder / "survivors.txt").write_text("\n".join(diffs))
    counts = f"{len(chosen)} of {len(codes)} mutants tested, {len(chosen) - len(left)} killed"
    return "\n".join([*diffs, f"{module}: {counts}, {len(left)} survived"])


def main() -> None:
    """Tests the mutants of the modules named, or of all."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("module", nargs="*", help="of the table in tests/mutants.py; none = all")
    parser.add_argument("--sample", type=int, default=0, help="mutants of a module, drawn at random; 0 = all")
    options = parser.parse_args()
    if unknown := set(options.module) - TESTS.keys():
        parser.error(f"not in the table of tests/mutants.py: {', '.join(sorted(unknown))}")
    for module in options.module or TESTS:
        print(report(module, options.sample), flush=True)


if __name__ == "__main__":
    main()

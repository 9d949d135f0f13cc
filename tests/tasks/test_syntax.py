"""What of a module's text counts, whatever Python parses it."""

import ast
import json
import shutil
import subprocess
from pathlib import Path

import pytest

from tasks.runtime import syntax

ROOT = Path(__file__).resolve().parents[2]
CASES = Path(__file__).with_name("syntax_cases.json")  # a text and its digest each, made by Python 3.11
OURS = {
    "sifthinker": "",
    "sifthinker.core.boxes": "boxes",
    "sifthinker.log": "",
}


def digest(*texts: str, without: tuple[str, ...] = ()) -> str:
    sources = [syntax.read(text, "sifthinker.a", False, OURS.__contains__, without) for text in texts]
    return syntax.digest(sources, "a", OURS.get)


FUNCTION = 'def f(x):\n    """Docs."""\n    log.info("%d rows", x)\n    return x + 1\n'
SAME = {
    "a comment": (FUNCTION, FUNCTION.replace("    return", "    # why\n    return")),
    "layout": (FUNCTION, FUNCTION.replace("x + 1", "(x +\n        1)")),
    "a docstring": (FUNCTION, FUNCTION.replace("Docs", "Others")),
    "no docstring": (FUNCTION, FUNCTION.replace('    """Docs."""\n', "")),
    "a field's docstring": ('class A:\n    x: int = 1\n    """Rows."""\n', "class A:\n    x: int = 1\n"),
    "a log line": (FUNCTION, FUNCTION.replace("%d rows", "there are %d rows")),
    "no log line": (FUNCTION, FUNCTION.replace('    log.info("%d rows", x)\n', "")),
    "a job's log line": ("def f(job):\n    job.log.warning('a')\n", "def f(job):\n    job.log.error('b')\n"),
    "a handler that only logs": (
        "try:\n    f()\nexcept E:\n    logger.exception('a')\n",
        "try:\n    f()\nexcept E:\n    pass\n",
    ),
    "the logger": (
        "import logging\nlogger = logging.getLogger(__name__)\nX = 1\n",
        "X = 1\n",
    ),
    "a user's message": ('raise UserError(f"{x} is wrong")\n', 'raise UserError(f"{x} is bad", y)\n'),
    "the message of an assert": ("assert x, 'a'\n", "assert x, f'b {x}'\n"),
    "annotations of a function": (
        "def f(x: int) -> str:\n    y: str = g(x)\n    return y\n",
        "def f(x):\n    y = g(x)\n    return y\n",
    ),
    "imports for types": ("if TYPE_CHECKING:\n    from sifthinker.core.boxes import Box\nX = 1\n", "X = 1\n"),
    "how a program starts": ("X = 1\nif __name__ == '__main__':\n    main()\n", "X = 1\n"),
    "the declaration of a stage": (
        "@stage(config=lambda c: {}, retries=2)\ndef f(job):\n    pass\n",
        "@stage(config=lambda c: {}, retries=5)\ndef f(job):\n    pass\n",
    ),
    "a file that moved": (
        "from sifthinker.core.boxes import iou\nx = iou(1)\n",
        "from sifthinker.core.boxes import iou\nx = iou(1)\n",
    ),
    "an import written otherwise": (
        "from sifthinker.core import boxes\nx = boxes.iou(1)\n",
        "from sifthinker.core.boxes import iou as overlap\nx = overlap(1)\n",
    ),
    "an alias of a library": (
        "import numpy as np\nx = np.zeros(1)\n",
        "import numpy\nx = numpy.zeros(1)\n",
    ),
    "where a neutral name comes from": (
        "from sifthinker.log import Shown\nx = Shown()\n",
        "from sifthinker import Shown\nx = Shown()\n",
    ),
    "the order of definitions": ("A = 1\n\ndef f():\n    return A\n", "def f():\n    return A\n\nA = 1\n"),
    "the quotes of an f-string": ("x = f'a{y}' 'b'\n", 'x = f"a{y}b"\n'),
}
OTHER = {
    "a line of code": (FUNCTION, FUNCTION.replace("x + 1", "x + 2")),
    "a default": ("def f(x=1):\n    return x\n", "def f(x=2):\n    return x\n"),
    "a type of constant": ("x = 1\n", "x = 1.0\n"),
    "a bool for a number": ("x = 1\n", "x = True\n"),
    "what a log line does": ("log.info('%d', n := n + 1)\n", "log.info('%d', n)\n"),
    "something else called log": ("math.log(f())\n", "math.log(g())\n"),
    "the text of a reject": ('raise BadRow("box", "a")\n', 'raise BadRow("size", "a")\n'),
    "what the annotator is told": ("raise Malformed('a')\n", "raise Malformed('b')\n"),
    "the kind of an error": ("raise UserError('a')\n", "raise ValueError('a')\n"),
    "the field of a record": ("class A:\n    x: int\n", "class A:\n    x: float\n"),
    "another function of a module": (
        "from sifthinker.core.boxes import iou as f\nx = f(1)\n",
        "from sifthinker.core.boxes import giou as f\nx = f(1)\n",
    ),
    "a parameter named as an import": (
        "from sifthinker.core import boxes\n\ndef f(boxes):\n    return boxes.iou\n",
        "from sifthinker.core import boxes\n\ndef f(other):\n    return boxes.iou\n",
    ),
    "a decorator": ("@cache\ndef f():\n    pass\n", "def f():\n    pass\n"),
    "the order of statements": ("A = []\nA.append(1)\nA.append(2)\n", "A = []\nA.append(2)\nA.append(1)\n"),
    "a name that is set twice": ("A = 1\nA = 2\n", "A = 2\nA = 1\n"),
}


@pytest.mark.parametrize("what", SAME)
def test_what_decides_nothing_changes_no_digest(what: str) -> None:
    before, after = SAME[what]
    assert digest(before) == digest(after)


@pytest.mark.parametrize("what", OTHER)
def test_what_can_decide_a_result_changes_the_digest(what: str) -> None:
    before, after = OTHER[what]
    assert digest(before) != digest(after)


def test_a_module_in_two_files_has_the_digest_that_it_had_in_one() -> None:
    whole = "from math import pi\n\nSIZE = 2\n\ndef area():\n    return SIZE * pi\n\ndef twice():\n    return 2 * area()\n"
    one = "from math import pi\n\nSIZE = 2\n\ndef area():\n    return SIZE * pi\n"
    other = "from sifthinker.one import area\n\ndef twice():\n    return 2 * area()\n"
    known = {"sifthinker.one": "a", "sifthinker.other": "a"}
    parts = [syntax.read(text, "sifthinker.a", False, known.__contains__) for text in (one, other)]
    assert syntax.digest(parts, "a", known.get) == digest(whole)


def test_definitions_that_are_left_out_count_for_nothing() -> None:
    text = "import os\nX = 1\nY = os.sep\n\ndef show():\n    print(Y)\n"
    assert digest(text, without=("Y", "show")) == digest("X = 1\n")
    assert digest(text) != digest("X = 1\n")


def test_relative_imports_are_found() -> None:
    known = {"a.b.c": "c", "a.b.d": "d", "a.e": "e"}.__contains__
    text = "from . import c\nfrom .d import x\nfrom ..e import y\n"
    [module] = [syntax.read(text, "a.b.m", False, known)]
    assert {bound.module for bound in module.imports} == {"a.b.c", "a.b.d", "a.e"}
    package = syntax.read("from . import c\nfrom .d import x\nfrom ..e import y\n", "a.b", True, known)
    assert {bound.module for bound in package.imports} == {"a.b.c", "a.b.d", "a.e"}


def test_a_field_that_a_newer_python_adds_changes_no_digest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python 3.12 gives every function and class an empty list `type_params`."""
    before = digest(FUNCTION + "class A:\n    pass\n")
    had = "type_params" in ast.FunctionDef._fields
    for kind in (ast.FunctionDef, ast.ClassDef, ast.AsyncFunctionDef):
        fields = tuple(name for name in kind._fields if name != "type_params")
        monkeypatch.setattr(kind, "_fields", fields if had else (*fields, "type_params"))
        if not had:
            monkeypatch.setattr(kind, "type_params", [], raising=False)
    assert digest(FUNCTION + "class A:\n    pass\n") == before


def test_digests_stay_what_they_are() -> None:
    """A change here makes every artifact of every store new: `sif accept --all` must then be needed for another reason."""
    cases = json.loads(CASES.read_text(encoding="utf-8"))
    assert {text: digest(text) for text in cases} == cases


@pytest.mark.parametrize("python", ["python3.12", "python3.13"])
def test_another_python_has_the_same_digests(python: str) -> None:
    found = shutil.which(python)
    if not found or subprocess.run([found, "-c", ""], capture_output=True, check=False).returncode:
        pytest.skip(f"there is no {python} here")
    program = (
        "import json, sys; from tasks import syntax; "
        "one = lambda text: syntax.digest([syntax.read(text, 'sifthinker.a', False, lambda name: False)], 'a', lambda name: None); "
        "print(json.dumps({text: one(text) for text in json.load(sys.stdin)}))"
    )
    texts = [*json.loads(CASES.read_text(encoding="utf-8"))]
    rooms = ("sifthinker/training", "sifthinker/rewards", "sifthinker/benchmarks")
    texts += [
        path.read_text(encoding="utf-8") for room in rooms for path in sorted((ROOT / room).glob("*.py"))
    ]
    done = subprocess.run(
        [found, "-c", program], input=json.dumps(texts), capture_output=True, text=True, check=True, cwd=ROOT
    )
    here = {
        text: syntax.digest([syntax.read(text, "sifthinker.a", False, lambda _: False)], "a", lambda _: None)
        for text in texts
    }
    assert json.loads(done.stdout) == here


@pytest.mark.parametrize("times", [1, syntax.TRIES - 1, syntax.TRIES])
def test_a_tree_that_another_thread_disturbed_is_parsed_again(
    monkeypatch: pytest.MonkeyPatch, times: int
) -> None:
    """Seen in a pool's run: "AST constructor recursion depth mismatch", of CPython 3.11 (issue 106905)."""
    failures = iter(range(times))
    whole = ast.parse

    def disturbed(text: str) -> ast.Module:
        if next(failures, None) is not None:
            raise SystemError("AST constructor recursion depth mismatch (before=78, after=77)")
        return whole(text)

    monkeypatch.setattr(ast, "parse", disturbed)
    if times < syntax.TRIES:
        assert syntax.read("a = 1", "m", False, lambda _: False).tree.body
    else:
        with pytest.raises(SystemError):
            syntax.read("a = 1", "m", False, lambda _: False)

"""What no module of ours may do, read off the source."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.infra.conftest import ROOT

MODULES = [p for folder in ("sifthinker", "tasks", "flows", "infra") for p in (ROOT / folder).rglob("*.py")]
# Each runs code, or writes where it likes, when its input was made for that.
FORBIDDEN = {
    "pickle.load", "pickle.loads", "marshal.loads", "torch.load", "joblib.load", "yaml.load", "yaml.unsafe_load",
    "shutil.unpack_archive", "eval", "exec", "os.system",
}  # fmt: skip
UNPACKS = (
    ".extract",
    ".extractall",
)  # of an archive: its names may lead anywhere. Opening one to look is fine
WITHOUT_CODE = {"GenerationConfig", "PeftModel"}  # whose from_pretrained knows no code of others


def calls(path: Path) -> Iterator[tuple[str, ast.Call]]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


@pytest.mark.parametrize("path", MODULES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_nothing_that_could_run_what_it_reads_is_called(path: Path) -> None:
    for name, call in calls(path):
        given = {keyword.arg: ast.unparse(keyword.value) for keyword in call.keywords}
        tensors_alone = name == "torch.load" and given.get("weights_only") == "True"
        assert name not in FORBIDDEN or tensors_alone, name
        assert not name.endswith(UNPACKS), f"{name} unpacks where the archive likes"
        assert given.get("shell", "False") == "False", f"{name} by a shell"
        assert given.get("allow_pickle", "False") == "False"
        owner = name.removesuffix(".from_pretrained").split(".")[-1]
        if name.endswith(".from_pretrained") and owner not in WITHOUT_CODE:
            assert given["trust_remote_code"] == "False", (
                f"{name} must say that it runs no code of a repository"
            )
            assert ("Model" not in owner and owner != "auto") or given["use_safetensors"] == "True"

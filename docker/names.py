"""Writes the names of what an image installs, without the comments beside them: files that change only when a name does.

    cd FOLDER && python names.py        # beside pyproject.toml and constraints.txt, in the first stage of an image

base.txt is the project's dependencies, train.txt and kubernetes.txt are its extras, and pins.txt is constraints.txt.
"""

import tomllib
from pathlib import Path


def write(folder: Path) -> None:
    """Writes the four files beside the two that they are read from."""
    project = tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = project["optional-dependencies"]
    pins = (folder / "constraints.txt").read_text(encoding="utf-8").splitlines()
    lists = {
        "base": project["dependencies"],
        "train": extras["train"],
        "kubernetes": extras["kubernetes"],
        "pins": [name for line in pins if (name := line.partition("#")[0].strip())],
    }
    for name, lines in lists.items():
        (folder / f"{name}.txt").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


if __name__ == "__main__":
    write(Path.cwd())

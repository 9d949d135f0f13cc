"""Pages of HTML from the templates of this room."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

TEMPLATES = Path(__file__).with_name("templates")


def render(template: str, **values: Any) -> str:
    """A page: the template of that file name, filled in. Equal values give equal text.

    Raises:
        jinja2.UndefinedError: the template asks for a value that is not given.
    """
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.tests["in_points"] = in_points
    return environment.get_template(template).render(**values)


def in_points(benchmark: str) -> bool:
    """Whether a benchmark's scores are no hundredths: MME's, which has 200 points a task."""
    return benchmark.split()[:1] == ["mme"]

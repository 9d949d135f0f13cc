"""What a check finds, and how checks are run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal

from sifthinker.core.errors import UserError

Verdict = Literal["ok", "warning", "error"]


@dataclass(frozen=True)
class Finding:
    """One line of the table.

    Attributes:
        check: what was looked at.
        verdict: whether it is right.
        found: what is there.
        todo: what to do, where it is not right.
    """

    check: str
    verdict: Verdict
    found: str
    todo: str = ""


Check = Callable[[], Iterable[Finding]]


def examine(checks: Mapping[str, Check]) -> list[Finding]:
    """The findings of all checks, in order; of one that breaks, what it had found, and that it broke."""
    findings: list[Finding] = []
    for name, check in checks.items():
        try:
            findings.extend(check())
        except UserError as error:  # says what to do itself
            findings.append(Finding(name, "error", str(error)))
        except Exception as error:  # noqa: BLE001 - whatever it is, the other checks are still wanted
            said = f"the check broke: {type(error).__name__}: {error}"
            findings.append(Finding(name, "error", said, "see to what it names, then look again"))
    return findings

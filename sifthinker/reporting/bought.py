"""What a report says of the calls that were paid for, as far as the stages noted them.

A stage notes what the process bought that finished it. The judges are noted apart from what the stage itself asked: in an
evaluation that was a server of ours, which costs nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from sifthinker.llm.call_counts import amounts


def line(stages: Iterable[Mapping[str, Any]], judged: bool) -> str:
    """Money, calls and tokens, and which of them are not known.

    Args:
        stages: manifests.
        judged: whether the evaluation has a judge; GRPO always has one.
    """
    money: dict[str, float] = defaultdict(float)
    calls = tokens = 0
    unreal, unpriced, unnoted = False, False, False
    for manifest in stages:
        stage, notes = manifest["stage"], manifest.get("notes") or {}
        unnoted |= "judge_calls" not in notes and (stage == "grpo" or (stage == "evaluate" and judged))
        count = notes.get("judge_calls", 0)
        tokens += notes.get("judge_tokens_bought", 0)
        if stage != "evaluate":
            count += notes.get("calls", 0)
            tokens += notes.get("prompt_tokens_bought", 0) + notes.get("completion_tokens_bought", 0)
        calls += count
        unreal |= bool(count and notes.get("standin"))
        unpriced |= bool(count and not notes.get("standin") and not notes.get("cost"))
        for currency, amount in amounts(notes.get("cost", "")).items():
            money[currency] += amount
    missing = "the judge's calls were not noted" if unnoted else ""
    if not calls:
        return "; ".join(filter(None, ("no paid calls", missing)))
    known = [f"{amount:,.2f} {currency}" for currency, amount in money.items()]
    if unpriced:
        known.append("calls without prices" if known else "unknown: no prices are set")
    if unreal and not known:
        known.append("nothing: the stand-in answered")
    counted = f"{calls:,} calls, {tokens:,} tokens, by the processes that finished the stages"
    return f"{', '.join(known)} ({'; '.join(filter(None, (counted, missing)))})"

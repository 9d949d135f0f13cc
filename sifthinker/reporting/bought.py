"""What artifacts took and what was paid for them, as far as the stages noted it.

A stage notes what the process took and bought that finished it, and under `EARLIER` what processes before it did that were
killed or failed. The judges are noted apart from what the stage itself asked: in an evaluation that was a server of ours, which
costs nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from sifthinker.llm.call_counts import amounts

EARLIER = "earlier_tries"  # the note: how many tries, their seconds, and what of `SUMMED` they bought
SUMMED = (  # notes of what a stage bought
    "calls",
    "prompt_tokens_bought",
    "completion_tokens_bought",
    "tokens_estimated",
    "judge_calls",
    "judge_tokens_bought",
    "judge_tokens_estimated",
    "cost",
)


def seconds(manifest: Mapping[str, Any]) -> float:
    """What the making of an artifact took, with the tries that ended without it."""
    before = (manifest.get("notes") or {}).get(EARLIER, {})
    return float(manifest["seconds"]) + float(before.get("seconds", 0.0))


def tries(manifest: Mapping[str, Any]) -> int:
    """How many tries the making of an artifact took."""
    return 1 + int((manifest.get("notes") or {}).get(EARLIER, {}).get("tries", 0))


def notes(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """The notes of an artifact, in which what was bought for it is that of all tries."""
    own = dict(manifest.get("notes") or {})
    return {**own, **added([own, own[EARLIER]])} if EARLIER in own else own


def added(found: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The sums of the notes of what was bought; those that nobody has are left out."""
    summed: dict[str, Any] = {}
    money: dict[str, float] = defaultdict(float)
    for one in found:
        for name in SUMMED[:-1]:
            if name in one:
                summed[name] = summed.get(name, 0) + one[name]
        for currency, amount in amounts(one.get("cost", "")).items():
            money[currency] += amount
    if money:
        summed["cost"] = in_words(money)
    return summed


def in_words(money: Mapping[str, float]) -> str:
    """Money by currency as the note `cost` has it, which `amounts` reads."""
    return ", ".join(f"{amount:.4f} {currency}" for currency, amount in money.items())


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
        stage, of = manifest["stage"], notes(manifest)
        unnoted |= "judge_calls" not in of and (stage == "grpo" or (stage == "evaluate" and judged))
        count = of.get("judge_calls", 0)
        tokens += of.get("judge_tokens_bought", 0)
        if stage != "evaluate":
            count += of.get("calls", 0)
            tokens += of.get("prompt_tokens_bought", 0) + of.get("completion_tokens_bought", 0)
        calls += count
        unreal |= bool(count and of.get("standin"))
        unpriced |= bool(count and not of.get("standin") and not of.get("cost"))
        for currency, amount in amounts(of.get("cost", "")).items():
            money[currency] += amount
    missing = "the judge's calls were not noted" if unnoted else ""
    if not calls:
        return "; ".join(filter(None, ("no paid calls", missing)))
    known = [f"{amount:,.2f} {currency}" for currency, amount in money.items()]
    if unpriced:
        known.append("calls without prices" if known else "unknown: no prices are set")
    if unreal and not known:
        known.append("nothing: the stand-in answered")
    counted = f"{calls:,} calls, {tokens:,} tokens"
    return f"{', '.join(known)} ({'; '.join(filter(None, (counted, missing)))})"

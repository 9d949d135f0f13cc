"""What the report says of paid calls: as far as it is known, and whose it is."""

from __future__ import annotations

from typing import Any

import pytest

from sifthinker.reporting import bought

OURS = {"calls": 300_000, "prompt_tokens_bought": 10**8, "completion_tokens_bought": 10**7}
CHAINS = {"calls": 1000, "prompt_tokens_bought": 900, "completion_tokens_bought": 100, "cost": "1.5000 CNY"}
JUDGE = {"judge_calls": 32_000, "judge_tokens_bought": 5000}


def stages(**notes: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"stage": stage, "notes": noted} for stage, noted in notes.items()]


@pytest.mark.parametrize(
    ("made", "judged", "said"),
    [
        (stages(ingest={}), False, "no paid calls"),
        # calls to the server that the evaluation starts cost nothing
        (stages(annotate={}, evaluate=OURS), False, "no paid calls"),
        (stages(annotate=CHAINS), False, "1.50 CNY (1,000 calls, 1,000 tokens)"),
        # the judges'
        (
            stages(annotate=CHAINS, grpo=JUDGE | {"cost": "0.25 USD"}, evaluate=OURS | JUDGE | {"cost": "2.0 CNY"}),
            True,
            "3.50 CNY, 0.25 USD (65,000 calls, 11,000 tokens)",
        ),
        (stages(grpo=JUDGE), False, "unknown: no prices are set (32,000 calls, 5,000 tokens)"),
        (
            stages(annotate=CHAINS, grpo=JUDGE),
            False,
            "1.50 CNY, calls without prices (33,000 calls, 6,000 tokens)",
        ),
        # a stand-in's cost nothing
        (
            stages(annotate=CHAINS | {"cost": "", "standin": "made up"}),
            False,
            "nothing: the stand-in answered (1,000 calls, 1,000 tokens)",
        ),
        (
            stages(annotate=CHAINS, grpo=JUDGE | {"standin": "made up"}),
            False,
            "1.50 CNY (33,000 calls, 6,000 tokens)",
        ),
        # tries that were killed or failed
        (
            stages(annotate=CHAINS | {bought.EARLIER: {"tries": 2, "seconds": 9.0, "calls": 50, "cost": "0.5000 CNY"}}),
            False,
            "2.00 CNY (1,050 calls, 1,000 tokens)",
        ),
        # artifacts from before the judges were noted
        (stages(grpo={"completions": 32_000}), False, "no paid calls; the judge's calls were not noted"),
        (
            stages(annotate=CHAINS, evaluate=OURS),
            True,
            "1.50 CNY (1,000 calls, 1,000 tokens; the judge's calls were not noted)",
        ),
        # a stage that found all of its replies in the ledger
        (stages(annotate={"calls": 0}, grpo=JUDGE | {"judge_calls": 0}), False, "no paid calls"),
    ],
)  # fmt: skip
def test_the_cost_is_that_of_all_paid_calls_and_says_which_are_not_known(made, judged, said):
    assert bought.line(made, judged) == said

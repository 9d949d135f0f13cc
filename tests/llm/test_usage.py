"""The arithmetic of what calls cost, and when a budget is spent."""

import pytest

from sifthinker.llm.usage import Budget, Usage

MORE = Usage(3, 1000, 400, 100, 0.75, 60)


def test_every_field_is_added_and_subtracted_by_itself() -> None:
    more, less = MORE, Usage(1, 200, 50, 30, 0.25, 10)
    assert more + less == Usage(4, 1200, 450, 130, 1.0, 70)
    assert more - less == Usage(2, 800, 350, 70, 0.5, 50)
    assert more + less - less == more
    assert more + Usage() == more - Usage() == more


def test_cached_tokens_are_part_of_the_prompt() -> None:
    assert MORE.tokens == 1100


@pytest.mark.parametrize(
    ("budget", "limits", "spent"),
    [
        (Budget(), False, False),  # no limit
        (Budget(tokens=1101), True, False),
        (Budget(tokens=1100), True, True),
        (Budget(tokens=1099), True, True),
        (Budget(tokens=0), True, True),  # a limit of 0 is a limit
        (Budget(money=0.76), True, False),
        (Budget(money=0.75), True, True),
        (Budget(money=0.0), True, True),
        (Budget(tokens=1101, money=0.75), True, True),  # one of the two is enough
        (Budget(tokens=1100, money=0.76), True, True),
        (Budget(tokens=1101, money=0.76), True, False),
    ],
)
def test_a_budget_is_spent_when_one_of_its_limits_is_reached(
    budget: Budget, limits: bool, spent: bool
) -> None:
    assert budget.limits == limits
    assert budget.spent(MORE) == spent

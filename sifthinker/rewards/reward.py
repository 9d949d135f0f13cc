"""What the entry of a reward says: its function, the inputs of a batch that it wants, and what is logged beside it."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING

from sifthinker.core.depth_maps import SummedArea
from sifthinker.core.records import Box

if TYPE_CHECKING:  # the configuration reads the table of rewards
    from sifthinker.config import Rewards

Values = Sequence[float | None]  # one a completion; None: not applicable


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of rewards: completions with what is known of each one's sample. Sequences are (completions,).

    Attributes:
        texts: what the model wrote.
        questions: what it was asked.
        references: the right answers.
        truths: ground-truth boxes of the samples, 0..1 of the image.
        maps: depth maps of the samples, 0 = nearest, 1 = farthest; completions of one sample share one.
        scores: the judge's scores, 0..1; None where it gave none.
        previous: mean of what `answer.Book` keeps of each sample in the last epoch; None where it has nothing.
        settings: `grpo.rewards` of the configuration.
    """

    texts: Sequence[str]
    questions: Sequence[str]
    references: Sequence[str]
    truths: Sequence[Sequence[Box]]
    maps: Sequence[SummedArea]
    scores: Values
    previous: Values
    settings: Rewards


_INPUTS = [field.name for field in dataclasses.fields(Batch)]


@dataclass(frozen=True, slots=True)
class Column:
    """A number that is kept of every completion beside a reward.

    Attributes:
        name: of the column in `completions.parquet`.
        mean: name of the metric that is its mean over a step, logged and drawn; "": there is none.
        absent: name of the metric that is the share of None in a step; "": there is none.
        shown: whether it stands beside the rewards on the page of a training and in `rewards.parquet`.
    """

    name: str
    mean: str = ""
    absent: str = ""
    shown: bool = False


@dataclass(frozen=True)
class Reward:
    """An entry of `REWARDS`; called, it is its function.

    Attributes:
        function: gives one value a completion, in order. None is "not applicable", 0 is "wrong".
        needs: names of `Batch`'s attributes, in the order of the function's parameters; "settings.variant" is an
            attribute of the settings.
        description: what is rewarded, in a few words.
        weight: in the sum of rewards, where the configuration gives no other; 0 = logged, not optimised.
        columns: what else is kept of a completion.
        details: of the same inputs, the values of `columns`, in their order.
    """

    function: Callable[..., Values]
    needs: tuple[str, ...]
    description: str = ""
    weight: float = 1.0
    columns: tuple[Column, ...] = ()
    details: Callable[..., Sequence[Values]] | None = None

    def __post_init__(self) -> None:
        """Checks the entry when it is made, long before a training calls it.

        Raises:
            ValueError: an input is not one of `Batch`, or columns are named and nothing gives their values.
            TypeError: a function does not take the inputs.
        """
        unknown = [name for name in self.needs if name.partition(".")[0] not in _INPUTS]
        if unknown:
            raise ValueError(f"a reward cannot need {unknown}; a batch has {_INPUTS}")
        if bool(self.columns) != bool(self.details):
            raise ValueError(
                "a reward with `columns` has `details`, which give their values, and the reverse"
            )
        for function in filter(None, (self.function, self.details)):
            inspect.signature(function).bind(*self.needs)

    def __call__(self, *inputs: object, **named: object) -> Values:
        """The function itself."""
        return self.function(*inputs, **named)

    def values(self, batch: Batch) -> Values:
        """The reward of each completion of a batch."""
        return self.function(*self._inputs(batch))

    def details_of(self, batch: Batch) -> dict[str, Values]:
        """The values of `columns` by name."""
        if self.details is None:
            return {}
        made = self.details(*self._inputs(batch))
        return dict(zip((column.name for column in self.columns), made, strict=True))

    def _inputs(self, batch: Batch) -> list[object]:
        return [attrgetter(name)(batch) for name in self.needs]

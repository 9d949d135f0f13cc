"""Which row breaks a training: found before it starts where its texts tell, and named where it breaks one under way.

Ingest rejects the special tokens of the families that `sifthinker.core.special_tokens` lists. The tokenizer of the model that is
really trained may have others, and a data set may be older than the list.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sifthinker.config import Sft
from sifthinker.core import special_tokens
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.models import processors

ID = "sample_id"  # key of a trainer's example; the id begins with the name of the row's source
_MARKUP = re.compile(r"[<>\[\]|]")


def reserved(processor: Any) -> frozenset[str]:
    """The tokens of a model that a text may not hold: those marked as special, place-holders, and listed ones.

    Left out are the tags of the chain, which some tokenizers know as a token, and tokens that are plain words or
    signs: a tokenizer that pads with "!" still reads "!" in a text.
    """
    added = processor.tokenizer.added_tokens_decoder.values()
    found = {str(token) for token in added if token.special or special_tokens.find(str(token))}
    found |= set(processor.tokenizer.all_special_tokens)
    found |= {
        value for name, value in vars(processor).items() if name.endswith("_token") and isinstance(value, str)
    }
    return frozenset(token for token in found if _MARKUP.search(token)) - special_tokens.CHAIN_TAGS


def check_texts(tokens: frozenset[str], rows: Sequence[Mapping[str, Any]], columns: Sequence[str]) -> None:
    """Whether the texts of some rows hold none of the model's `reserved` tokens.

    Raises:
        UserError: one does; it names the row, the column and the token.
    """
    if not tokens:
        return
    pattern = re.compile("|".join(re.escape(token) for token in sorted(tokens, key=len, reverse=True)))
    for row in rows:
        for column in columns:
            if held := pattern.search(row[column]):
                raise UserError(
                    f"{row['id']}: its {column} holds {held[0]!a}, a special token of this model, which would end the "
                    "training or the turn. Take it out of the row in the source's file and run again: the rows that "
                    "were paid for are in the ledger"
                )


def too_long(
    rows: Sequence[Mapping[str, Any]], tokens: Sequence[int], settings: Sft, start: int
) -> list[Reject]:
    """The rows that SFT cannot take, because they have more tokens than `max_length`.

    Args:
        rows: of the data set.
        tokens: of each, with its pictures and its target.
        settings: of the training.
        start: index of the first row in the data set.
    """
    return [
        Reject(
            "sft",
            "too-long",
            f"{count} tokens with its images, sft.max_length is {settings.max_length}",
            id=row["id"],
            row=index,
            field=settings.target,
        )
        for index, (row, count) in enumerate(zip(rows, tokens, strict=True), start)
        if count > settings.max_length
    ]


def refuse(rejects: Sequence[Reject], rows: int, settings: Sft) -> None:
    """Whether SFT may go on with the rows that are not `too_long`.

    Args:
        rejects: of the whole data set.
        rows: how many it has.
        settings: of the training.

    Raises:
        UserError: there are rejects and `too_long` is "error", or no row is left.
    """
    if rejects and settings.too_long == "error":
        first = rejects[0]
        raise UserError(
            f"{len(rejects)} of {rows} chains do not fit and are never cut; the first is {first.id}: "
            f"{first.detail}. Raise sft.max_length, lower model.max_pixels, or set sft.too_long: reject"
        )
    if len(rejects) == rows:
        raise UserError(f"sft.max_length: none of {rows} chains fits {settings.max_length} tokens")


class NamedRows:
    """A collator that says which row it fails for."""

    def __init__(self, collate: Callable[[list[dict[str, Any]]], Any]) -> None:
        """Collates as `collate` does."""
        self.collate = collate

    def __call__(self, examples: list[dict[str, Any]]) -> Any:
        """The batch of some examples.

        Raises:
            UserError: one of them cannot be processed, alone.
        """
        rows = [{key: value for key, value in row.items() if key != ID} for row in examples]
        try:
            return self.collate([dict(row) for row in rows])  # TRL's collator writes into them
        except Exception:
            for row, example in zip(rows, examples, strict=True):
                _alone(lambda row=row: self.collate([dict(row)]), example[ID])  # type: ignore[misc]
            raise


def name_row(processor: Any, examples: Sequence[Mapping[str, Any]]) -> None:
    """After a batch of prompts has failed: whether one of them fails alone.

    Raises:
        UserError: one does; it names the row.
    """
    for example in examples:
        _alone(lambda e=example: processors.encode(processor, e["prompt"], e["images"]), example[ID])  # type: ignore[misc]


def _alone(process: Callable[[], Any], name: str) -> None:
    try:
        process()
    except Exception as error:
        raise UserError(
            f"{name}: this row cannot be processed: {type(error).__name__}: {error}\nTake it out of the source's file "
            "and run again: the rows that were paid for are in the ledger"
        ) from error

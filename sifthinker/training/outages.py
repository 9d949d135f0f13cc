"""A judge that does not answer for a while: a training waits for it, and its stage is tried again if it stays away.

An outage of minutes is everyday life in a training of days. It is no mistake of the user's, unlike a judge that refuses or
replies without scores.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from itertools import chain, repeat

from sifthinker import llm
from sifthinker.llm import judge

logger = logging.getLogger(__name__)

AWAY = "exhausted"  # the kind of a request that no try brought to the judge
HUNG = "timeout"  # of one that may have been paid for each time: the client has asked it as often as it may
PAUSES = (10.0, 20.0, 40.0, 60.0)  # seconds between two rounds, the last one again and again


class JudgeAway(Exception):
    """The judge does not answer. The stage is tried again and resumes, so this is no mistake of the user's."""


def ask_all(
    client: llm.Client,
    requests: Sequence[llm.Request],
    completions: int,
    max_absent: float,
    patience: float,
) -> list[llm.Reply | llm.Failure]:
    """The judge's replies; those that it was away for are asked for again while too many scores are absent.

    Every rank calls it at the same time. The share counts over all ranks, so that they go on together, and so that one
    picture that the judge fails on does not hold up a training.

    Args:
        client: asks the judge.
        requests: of this rank.
        completions: of this rank; those without a request have a score.
        max_absent: largest share of completions without a score that is not waited for.
        patience: seconds in which the judge is asked again.

    Raises:
        JudgeAway: too many are still absent, because the judge did not answer.
    """
    from accelerate.utils import gather_object  # imports torch

    began = time.monotonic()
    found = ask_once(client, requests)
    for pause in pauses():
        failures = [reply for reply in found if isinstance(reply, llm.Failure)]
        ours = {
            "of": completions,
            "absent": sum(isinstance(reply, llm.Failure) or judge.scored(reply) is None for reply in found),
            "away": sum(failure.kind == AWAY for failure in failures),
            "hung": sum(failure.kind == HUNG for failure in failures),
            "waited": time.monotonic() - began,
        }
        everyone = gather_object([ours])
        of, absent, away, hung = (sum(each[name] for each in everyone) for name in ("of", *list(ours)[1:4]))
        if absent <= max_absent * of or not (away or hung):
            return found
        told = [failure.detail for failure in failures if failure.kind in (AWAY, HUNG)]
        said = told[-1] if told else "see the other ranks"  # the last says why the rest was not asked
        if not away or max(each["waited"] for each in everyone) >= patience:
            raise JudgeAway(
                f"the judge gave no score for {absent} of {of} completions, and did not answer {away + hung} times: {said}"
            )
        logger.warning(
            "judge: no answer for %d of %d completions, asked again in %.0f s: %s", away, of, pause, said
        )
        time.sleep(pause)
        again = [index for index, reply in enumerate(found) if _is_away(reply)]
        for index, reply in zip(again, ask_once(client, [requests[i] for i in again]), strict=True):
            found[index] = reply
    raise AssertionError("the pauses do not end")


def pauses() -> Iterator[float]:
    """Seconds between two rounds, without an end."""
    return chain(PAUSES, repeat(PAUSES[-1]))


def ask_once(client: llm.Client, requests: Sequence[llm.Request]) -> list[llm.Reply | llm.Failure]:
    """The replies of one round. Where the client gives the endpoint up, the rest count as not answered."""
    found: list[llm.Reply | llm.Failure] = []
    client.go_on()  # it may have given the endpoint up in the round before
    try:
        found.extend(client.answers(requests))
    except llm.Unreachable as error:
        found += [llm.Failure(AWAY, str(error))] * (len(requests) - len(found))
    return found


def _is_away(reply: llm.Reply | llm.Failure) -> bool:
    return isinstance(reply, llm.Failure) and reply.kind == AWAY

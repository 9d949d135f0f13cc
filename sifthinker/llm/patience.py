"""How long is waited for an endpoint that does not answer, and what is said of it.

A server may ask for a pause (Retry-After): in seconds, for ever, until a date in 2099. It gets at most `max_pause`;
if it then asks for as long again, the stage ends. Whatever is waited for is said at WARNING, at once: a run that
nobody looks at must not wait in silence.
"""

from __future__ import annotations

import datetime
import logging
import random
import time

from sifthinker.core.errors import UserError
from sifthinker.llm.endpoint_errors import Transient

log = logging.getLogger(__name__)

_UNREACHABLE = 10  # requests in a row that exhausted their retries, without one success between them
_LONGEST_BACKOFF = 60.0  # seconds
_WORTH_SAYING = 5.0  # seconds of a pause; shorter ones are everyday life under a rate limit
_AGAIN = 30.0  # seconds between two warnings of the same trouble


class Unreachable(UserError):
    """The endpoint answers nothing any more."""


class Patience:
    """Of all calls to one endpoint. Used in one event loop."""

    def __init__(self, url: str, most: float) -> None:
        """`most` is the longest pause that a server may ask for, in seconds."""
        self.url, self.most = url, most
        self.answers = 0
        self._troubles = 0  # tries without an answer, since the last answer
        self._given_up = 0  # requests, since the last answer
        self._said_at = float("-inf")
        self._paused_until = float("-inf")  # by the server's word, as far as it was said
        self._cut_until: float | None = None  # end of a pause that was cut short

    def answered(self) -> None:
        """An answer came."""
        self.answers += 1
        if self._troubles and self._said_at > float("-inf"):
            log.info("%s: answers again", self.url)
            self._said_at = float("-inf")
        self._troubles = 0
        self.renew()

    def given_up(self, trouble: Transient, tries: int) -> Unreachable | None:
        """A request was given up after so many tries; the error, where too many were in a row."""
        self._given_up += 1
        if self._given_up < _UNREACHABLE:
            return None
        return Unreachable(
            f"{self.url}: the last {self._given_up} requests were given up after {tries} tries each, the last one with: "
            f"{trouble.detail}\nWhat was bought is kept; start again when it answers."
        )

    def renew(self) -> None:
        """From here on as many requests may be given up, and a long pause be asked for, as at first."""
        self._given_up, self._cut_until = 0, None

    def pause(self, trouble: Transient) -> float:
        """The seconds for which nobody shall send: what the server asks for, cut to `most`; 0 where it asks for none.

        Raises:
            Unreachable: it asked for more than `most`, that was waited for, and it asks for more again.
        """
        self._troubles += 1
        if not trouble.after:
            return 0.0
        now = time.monotonic()
        if trouble.after <= self.most:
            return trouble.after
        if self._cut_until is None:
            self._cut_until = now + self.most
        elif now >= self._cut_until:
            raise Unreachable(
                f"{self.url}: {trouble.detail}\nThe server asks for a pause {_until(trouble.after)}, longer than "
                f"max_pause = {self.most:g} s, and did so before. What was bought is kept; start again when it answers, "
                "or raise max_pause."
            )
        return self._cut_until - now

    def backoff(self, attempt: int) -> float:
        """Seconds before the next try, after `attempt` tries."""
        return min(_LONGEST_BACKOFF, 0.5 * 2.0 ** (attempt - 1)) * random.uniform(0.5, 1.5)

    def say(self, trouble: Transient, pause: float, wait: float, waiting: int) -> None:
        """Warns where there is something to warn of.

        Args:
            trouble: the last one.
            pause: what the server was given.
            wait: seconds until the next try.
            waiting: requests that wait.
        """
        now = time.monotonic()
        if pause >= _WORTH_SAYING:
            if now + pause <= self._paused_until + 1:  # said already
                return
            self._paused_until = now + pause
            self._said_at = now
            cut = ""
            if trouble.after is not None and trouble.after > pause + 1:
                cut = (
                    f" It asked for a pause {_until(trouble.after)}; max_pause is {self.most:g} s, and the stage ends "
                    "if it asks for as long again."
                )
            log.warning(
                "%s: %s: nothing is sent until %s (%.0f s), %d waiting.%s",
                self.url,
                trouble.detail,
                _clock(pause),
                pause,
                waiting,
                cut,
            )
        elif self._troubles == 1 and trouble.unreachable:  # at once: it may well last
            self._warn(trouble.detail, waiting, wait)
        elif self._troubles > 1 and now - self._said_at >= _AGAIN:
            self._said_at = now
            self._warn(f"no answer to the last {self._troubles} tries: {trouble.detail}", waiting, wait)

    def _warn(self, what: str, waiting: int, wait: float) -> None:
        log.warning("%s: %s: %d waiting, next try in %.0f s", self.url, what, waiting, max(1.0, wait))

    def state(self) -> str:
        """What is waited for now, in few words; empty where nothing is."""
        left = self._paused_until - time.monotonic()
        if left > 0:
            return f"paused until {_clock(left)}"
        return f"no answer to the last {self._troubles} tries" if self._troubles > 1 else ""


def _clock(seconds: float) -> str:
    """The time of day so many seconds from now."""
    return f"{datetime.datetime.now() + datetime.timedelta(seconds=seconds):%H:%M:%S}"


def _until(seconds: float) -> str:
    """A pause of any length, in words."""
    try:
        return f"of {seconds:.0f} s, until {datetime.datetime.now() + datetime.timedelta(seconds=seconds):%Y-%m-%d %H:%M:%S}"
    except OverflowError:  # infinite, or after the year 9999
        return f"of {seconds:g} s"

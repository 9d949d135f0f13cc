"""Whether an endpoint refuses a field of the body, which every request has: asking on would fail every row alike."""

from __future__ import annotations

import re

from sifthinker.config import Api
from sifthinker.llm import completion
from sifthinker.llm.completion import Unreadable

# What providers say of a field that they do not take, in the words that were seen.
_REFUSED = re.compile(
    r"unsupported|not supported|n[o']t support|unknown|unrecogni[sz]ed|not permitted|not allowed|must be set to|"
    r"cannot be (?:set|used)|不支持|必须设置"
)
_NAMED = re.compile(r"(?:parameter|field|argument)s?[\s.:'\"`]+(\w+)")
_ADVICE = {
    "max_tokens": "set token_limit_field: max_completion_tokens (or none)",
    "max_completion_tokens": "set token_limit_field: max_tokens (or none)",
    "temperature": "set leave_out: [temperature]",
    "seed": "set leave_out: [seed]",
}


def sent(api: Api) -> set[str]:
    """The fields that the requests to an endpoint have, besides model and messages."""
    ours = {"temperature", "seed", api.token_limit_field} - {"none", *api.leave_out}
    return ours | set(api.extra)


def advice(raw: bytes, api: Api) -> str | None:
    """What to set in the endpoint's section where it refuses a field; None where the refusal is about something else.

    Args:
        raw: the body of an answer with status 400 or 422.
        api: the endpoint's section.
    """
    try:
        answer = completion.parse(raw)
    except Unreadable:
        return None
    said = completion.words(raw)
    if not _REFUSED.search(said.lower()):
        return None
    fields = sent(api)
    param = _param(answer)
    words = set(re.findall(r"\w+", said))
    named = [name for name in fields if name in words]
    found = param if param in fields else min(named, key=said.index) if named else None
    if found is not None:
        return f"take {found} out of extra" if found in api.extra else _ADVICE[found]
    missing = _NAMED.search(said)  # a field that wants another value than the provider's default
    if missing and "must be set to" in said.lower():
        return f"set extra: {{{missing[1]}: ...}} to what it says"
    return None


def _param(answer: object) -> str | None:
    error = answer.get("error") if isinstance(answer, dict) else None
    param = error.get("param") if isinstance(error, dict) else None
    return param if isinstance(param, str) else None

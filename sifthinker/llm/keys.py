"""The key of an endpoint: which environment variable may be sent to which host.

A configuration is a parameter of a run, and names both the variable and the host. So that nobody who may start a run gets
any secret of the machine that works on it, the pairs of variable and host are the machine's: those of the known providers
(`config/presets.py`), and what its environment adds, `SIF_API_KEYS="MY_KEY=llm.example.com,MY_KEY=*.example.org"`.
"""

from __future__ import annotations

import os
import unicodedata
from urllib.parse import urlsplit

from sifthinker.config import Api
from sifthinker.config.presets import PRESETS, matches
from sifthinker.core.errors import UserError
from sifthinker.system import loopback

VARIABLE = "SIF_API_KEYS"
_QUOTES = "\"'`"


def key(api: Api, url: str) -> str:
    """The API key from the environment; "" for an endpoint that asks for none.

    Raises:
        UserError: the variable is not set for another machine's endpoint, may not be sent to it, or holds no key.
    """
    name, host = api.api_key_env, urlsplit(url).hostname or ""
    if not name:
        return ""
    value = os.environ.get(name, "").strip()
    if not value:
        if host in loopback.HOSTS:
            return ""
        raise UserError(
            f"{url}: no API key: set the environment variable {name}, or name another one in api_key_env; leave "
            "api_key_env empty for a server that asks for none"
        )
    if not allowed(name, host):
        raise UserError(
            f"{url}: the key in the environment variable {name} may not be sent to {host}. If it shall be, set "
            f"{VARIABLE}={name}={host} in the environment of the machine that calls it (pairs, with commas between them)"
        )
    if stray := _stray(value):
        raise UserError(f"the environment variable {name} holds {stray}, which no key does; set it anew")
    return value


def optional(name: str, url: str) -> str:
    """The variable where it is set and may be sent to the URL's host, for a server that may well ask for no key; else ""."""
    return name if os.environ.get(name) and allowed(name, urlsplit(url).hostname or "") else ""


def allowed(name: str, host: str) -> bool:
    """Whether the variable may be sent to the host. A known provider's may also be sent to this machine's loopback.

    Raises:
        UserError: the machine's own list cannot be read.
    """
    pairs = [*_providers(), *_own()]
    here = host in loopback.HOSTS and any(name == variable for variable, _ in pairs)
    return here or any(name == variable and matches(host, pattern) for variable, pattern in pairs)


def _providers() -> list[tuple[str, str]]:
    found = []
    for preset in PRESETS.values():
        if name := preset.fields["api_key_env"]:
            found += [(name, host) for host in preset.patterns]
    return found


def _own() -> list[tuple[str, str]]:
    found = []
    for entry in filter(None, (part.strip() for part in os.environ.get(VARIABLE, "").split(","))):
        name, equals, host = (part.strip() for part in entry.partition("="))
        if not (equals and name.isidentifier() and host) or "/" in host or ":" in host.strip("[]"):
            raise UserError(
                f"{VARIABLE}: {entry!r} is no pair of a variable and a host; write {VARIABLE}=MY_KEY=llm.example.com, with "
                "commas between pairs"
            )
        found.append((name, host.lower()))
    return found


def _stray(value: str) -> str:
    """The first character that no key has, and where, without anything of the key."""
    for position, character in enumerate(value, 1):
        if character in _QUOTES or not "!" <= character <= "~":
            name = unicodedata.name(character, f"U+{ord(character):04X}").lower()
            return f"a character that is no part of a key at position {position} of {len(value)} ({name})"
    return ""

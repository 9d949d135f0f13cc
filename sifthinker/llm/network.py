"""What lies between this machine and an endpoint: proxies, certificates, redirects, packed answers; in a user's words."""

from __future__ import annotations

import os
import re
import ssl
import urllib.request
from urllib.parse import urljoin, urlsplit

from sifthinker.core.errors import UserError

HOPS = 3  # redirects of one request that are followed
_KEPT = (307, 308)  # redirects that keep method and body
_PACKED = (
    "",
    "identity",
    "gzip",
    "deflate",
)  # one of these, once: 1 MB of any unpacks to 1 GB at most


def proxy(url: str) -> str:
    """The proxy that the environment names for a URL, without user and password; "" where there is none."""
    parts = urlsplit(url)
    named = urllib.request.getproxies()
    found = named.get(parts.scheme) or named.get("all", "")
    if not found or urllib.request.proxy_bypass(parts.hostname or ""):
        return ""
    return re.sub(r"//[^/@]*@", "//", found)


def trouble(error: BaseException, url: str) -> str:
    """A connection that was not made, or was lost, with where it was going.

    Raises:
        UserError: trying again would be of no use: an untrusted certificate, or a proxy that wants a password.
    """
    import aiohttp

    between = proxy(url)
    if isinstance(error, aiohttp.ClientHttpProxyError):
        said = f"the proxy {between} refuses to connect to {host(url)}: HTTP {error.status} {error.message}".rstrip()
        if error.status == 407:
            raise UserError(_password(url, between))
        return said
    if isinstance(error, aiohttp.ClientProxyConnectionError):
        return (
            f"cannot connect to the proxy {between} (of the environment, for {host(url)}): {_reason(error)}"
        )
    if certificate := _certificate(error):
        raise UserError(
            f"{url}: its certificate is not trusted: {certificate}. Where the network's proxy or the company has a CA of "
            "its own, set SSL_CERT_FILE to its certificates (PEM)"
        )
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"cannot connect to {host(url)}: {_reason(error)}"
    return " ".join(f"{type(error).__name__}: {error}".split())


def is_unreachable(error: BaseException) -> bool:
    """Whether no connection was made at all."""
    import aiohttp

    return isinstance(error, (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError))


def refusal(status: int, raw: bytes, url: str) -> str:
    """What to add to an error's words where a proxy may have written it; "" where it did not.

    Raises:
        UserError: the proxy wants a password.
    """
    between = proxy(url)
    if status == 407:
        raise UserError(_password(url, between))
    if between and not raw.lstrip().startswith((b"{", b"[")):
        return f" (through the proxy {between}, which may have written this itself)"
    return ""


def redirected(status: int, location: str, url: str, method: str) -> str:
    """Where a redirect leads, if it is followed: the same host, with the same method and body.

    Raises:
        UserError: it leads elsewhere; pictures and questions are not sent to a host that nobody named.
    """
    target = urljoin(url, location)
    here, there = urlsplit(url), urlsplit(target)
    same = here.hostname == there.hostname and (here.scheme, here.port) == (there.scheme, there.port)
    if same and (status in _KEPT or method == "GET"):
        return target
    where = f"{there.scheme}://{there.netloc.rpartition('@')[2]}{there.path}"
    raise UserError(
        f"{url}: HTTP {status}: it redirects to {where or 'nowhere'}, which is not followed. Nothing more was asked: set "
        "base_url to the address that answers itself"
    )


def is_packed_oddly(encoding: str) -> bool:
    """Whether an answer is packed in a way that may unpack without limit: several times over, or by another method."""
    return encoding.strip().lower() not in _PACKED


def host(url: str) -> str:
    """Host and port of a URL."""
    parts = urlsplit(url)
    return f"{parts.hostname}:{parts.port or {'https': 443}.get(parts.scheme, 80)}"


def _password(url: str, between: str) -> str:
    return (
        f"the proxy {between or 'before ' + host(url)} asks for a user and a password (HTTP 407): write them into the "
        "environment's HTTPS_PROXY or HTTP_PROXY, http://user:password@proxy:port"
    )


def _reason(error: BaseException) -> str:
    cause = getattr(error, "os_error", None) or error
    number = getattr(cause, "errno", None)
    return os.strerror(number) if isinstance(number, int) and number > 0 else str(cause)


def _certificate(error: BaseException) -> str:
    """What is wrong with the certificate; "" where it is something else."""
    inner = getattr(error, "certificate_error", None) or getattr(error, "os_error", None) or error
    if isinstance(inner, ssl.SSLCertVerificationError):
        return inner.verify_message or str(inner)
    return ""

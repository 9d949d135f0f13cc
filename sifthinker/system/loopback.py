"""What listens on this machine is reached directly, whatever proxy the environment names.

A company's network sets HTTP_PROXY, often without NO_PROXY. A proxy cannot reach the loopback of the machine behind
it: the Prefect server, the stand-in and a model's server would seem to be down.
"""

from __future__ import annotations

import os

HOSTS = ("localhost", "127.0.0.1", "::1")


def direct() -> None:
    """Adds loopback to NO_PROXY, for this process and all that it starts.

    urllib, httpx and requests read the variable; some read the one spelling, some the other.
    """
    named = [
        host.strip() for name in ("no_proxy", "NO_PROXY") for host in os.environ.get(name, "").split(",")
    ]
    hosts = ",".join(dict.fromkeys([*filter(None, named), *HOSTS]))
    os.environ["no_proxy"] = os.environ["NO_PROXY"] = hosts

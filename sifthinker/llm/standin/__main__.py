"""The command line of the stand-in: `python -m sifthinker.llm.standin`."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import logging
import os
from pathlib import Path

from sifthinker.llm import standin
from sifthinker.llm.standin import seeing
from sifthinker.llm.standin.faults import FAULTS, Settings
from sifthinker.llm.standin.server import Server
from sifthinker.llm.standin.wire import connection

log = logging.getLogger(__name__)


async def _serve(
    settings: Settings, port: int, port_file: Path | None, parent: int, eyes: seeing.Eyes | None
) -> None:
    state = Server(settings, eyes)
    server = await asyncio.start_server(
        lambda reader, writer: connection(reader, writer, state.answer),
        "127.0.0.1",
        port,
        limit=2**20,
        backlog=4096,
    )
    bound = server.sockets[0].getsockname()[1]
    log.info("the stand-in serves http://127.0.0.1:%d/v1", bound)
    if port_file is not None:
        part = port_file.with_suffix(".part")
        part.write_text(str(bound))
        part.rename(port_file)
    async with server:
        while not parent or os.getppid() == parent:  # otherwise the process that started us is gone
            await asyncio.sleep(0.5)


def main(eyes: seeing.Eyes | None = None) -> None:
    """The command line; `eyes` see for the chains."""
    parser = argparse.ArgumentParser(prog="python -m sifthinker.llm.standin", description=standin.__doc__)
    parser.add_argument("--port", type=int, default=8000, help="0: any free one")
    parser.add_argument("--port-file", type=Path, help="written with the port when the server listens")
    parser.add_argument(
        "--parent", type=int, default=0, help="process id; the server ends when it is no longer ours"
    )
    parser.add_argument("--fault", action="append", default=[], metavar="KIND=RATE", help=", ".join(FAULTS))
    parser.add_argument(
        "--scenes",
        action="append",
        default=[],
        type=Path,
        help="a scenes.json: the texts say what it has in a region",
    )
    plain = [field for field in dataclasses.fields(Settings) if field.name != "faults"]
    for field in plain:
        parser.add_argument(
            f"--{field.name.replace('_', '-')}", type=type(field.default), default=field.default
        )
    options = parser.parse_args()
    faults = {}
    for fault in options.fault:
        kind, _, rate = fault.partition("=")
        if kind not in FAULTS:
            parser.error(f"unknown fault {kind!r}; known: {', '.join(FAULTS)}")
        faults[kind] = float(rate or 1.0)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    settings = Settings(faults, **{field.name: getattr(options, field.name) for field in plain})
    if options.scenes:
        eyes = seeing.truth(options.scenes)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_serve(settings, options.port, options.port_file, options.parent, eyes))


if __name__ == "__main__":
    main()

"""Alerts that the server sends at the same time: each arrives, and is answered."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.tasks.own_process import printed

# One call is answered while another waits for its answer.
TWO = """
import asyncio, sys
from prefect.blocks.webhook import Webhook
if sys.argv[1] == "ours":
    import tasks.runtime.event_order

held = asyncio.Event()

async def serve(reader, writer):
    head = (await reader.readuntil(b"\\r\\n\\r\\n")).lower()
    body = await reader.readexactly(int(head.partition(b"content-length: ")[2].split()[0]))
    if body == b"slow":
        await held.wait()
    writer.write(b"HTTP/1.1 200 OK\\r\\ncontent-length: 0\\r\\n\\r\\n")
    await writer.drain()
    writer.close()

async def call(url, body):
    try:
        return body, (await Webhook(url=url).call(body)).status_code
    except Exception as error:
        return body, type(error).__name__

async def main():
    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    slow = asyncio.create_task(call(url, "slow"))
    await asyncio.sleep(0.5)
    print(*await call(url, "quick"))
    held.set()
    print(*await slow)

asyncio.run(main())
"""


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("whose", "said"),
    [
        ("ours", "quick 200\nslow 200\n"),
        ("prefects", "quick 200\nslow ReadError\n"),  # once this fails, Prefect has mended it
    ],
)
def test_an_alert_does_not_cut_another_off(tmp_path: Path, whose: str, said: str) -> None:
    assert printed(TWO, whose, home=tmp_path / "home") == said

"""A server on loopback whose every byte is chosen: for answers that Python's own server cannot give."""

from __future__ import annotations

import asyncio
import re
import socket
import struct
import threading
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field

_LENGTH = re.compile(rb"content-length: *(\d+)", re.IGNORECASE)


@dataclass
class Wire:
    """The connection of one request, and what it asks for."""

    writer: asyncio.StreamWriter
    body: bytes
    attempt: int  # of the same request, from 0
    is_over: bool = False  # the connection is not used again

    async def raw(self, *parts: bytes) -> None:
        """These bytes."""
        for part in parts:
            self.writer.write(part)
            await self.writer.drain()

    async def send(self, body: bytes, status: int = 200, **headers: str) -> None:
        """A whole answer; `_` in the names of headers stands for `-`."""
        named = {"content-type": "application/json", "content-length": str(len(body))}
        named |= {name.replace("_", "-"): value for name, value in headers.items()}
        lines = "".join(f"{name}: {value}\r\n" for name, value in named.items() if value != "none")
        await self.raw(f"HTTP/1.1 {status} Some Words\r\n{lines}\r\n".encode("latin-1"), body)

    async def close(self) -> None:
        """Hangs up."""
        self.is_over = True
        self.writer.close()

    async def reset(self) -> None:
        """Hangs up with a reset."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        await self.close()

    async def silence(self) -> None:
        """Nothing more, until the other end hangs up."""
        self.is_over = True
        await asyncio.sleep(600)


@dataclass
class Seen:
    """What a server was asked."""

    url: str = ""
    asked: Counter[int] = field(default_factory=Counter)  # by the number of the question
    bodies: Counter[bytes] = field(default_factory=Counter)


@contextmanager
def serving(number: Callable[[bytes], int], act: Callable[[Wire, int], Awaitable[None]]) -> Iterator[Seen]:
    """`number` finds the question of a body, and `act` answers it."""
    seen, loop = Seen(), asyncio.new_event_loop()

    async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                found = _LENGTH.search(head)
                body = await reader.readexactly(int(found[1]) if found else 0)
                question = number(body)
                wire = Wire(writer, body, seen.bodies[body])
                seen.bodies[body] += 1
                seen.asked[question] += 1
                await act(wire, question)
                if wire.is_over:
                    return
        writer.close()

    async def start() -> asyncio.Server:
        return await asyncio.start_server(connection, "127.0.0.1", 0, limit=2**24)

    async def stop() -> None:
        server.close()
        tasks = asyncio.all_tasks(loop) - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    server = loop.run_until_complete(start())
    seen.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1"
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    try:
        yield seen
    finally:
        asyncio.run_coroutine_threadsafe(stop(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()

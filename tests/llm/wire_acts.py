"""What a server does on the wire, byte by byte; `text` is the reply that would be right."""

from __future__ import annotations

import asyncio

from tests.evil import chat
from tests.wire import Wire

HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"


def chunked(body: bytes, size: int, end: bytes = b"0\r\n\r\n") -> list[bytes]:
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return [
        HEAD + b"transfer-encoding: chunked\r\n\r\n",
        *(b"%x\r\n%s\r\n" % (len(p), p) for p in parts),
        end,
    ]


async def in_chunks(wire: Wire, text: str) -> None:
    await wire.raw(*chunked(chat(text), 50))


async def in_chunks_without_an_end(wire: Wire, text: str) -> None:
    await wire.raw(*chunked(chat(text), 50, b""))
    await wire.close()


async def in_chunks_of_no_size(wire: Wire, text: str) -> None:
    await wire.raw(HEAD, b"transfer-encoding: chunked\r\n\r\nxyz\r\n", chat(text))
    await wire.close()


async def until_it_hangs_up(wire: Wire, text: str) -> None:
    await wire.raw(HEAD, b"connection: close\r\n\r\n", chat(text))
    await wire.close()


async def closes_afterwards(wire: Wire, text: str) -> None:
    await wire.send(chat(text), connection="close")
    await wire.close()


async def closes_unannounced(wire: Wire, text: str) -> None:
    await wire.send(chat(text))
    await wire.close()


async def cut_in_the_middle(wire: Wire, text: str) -> None:
    body = chat(text)
    await wire.raw(HEAD, b"content-length: %d\r\n\r\n" % len(body), body[:40])
    await wire.close()


async def reset_in_the_middle(wire: Wire, text: str) -> None:
    await wire.raw(HEAD, b"content-length: 5000\r\n\r\n", chat(text)[:40])
    await wire.reset()


async def an_error_that_is_cut_off(wire: Wire, _: str) -> None:
    await wire.raw(b"HTTP/1.1 500 Oh\r\ncontent-length: 5000\r\n\r\n", b'{"error": ')
    await wire.close()


async def resets(wire: Wire, _: str) -> None:
    await wire.reset()


async def hangs_up(wire: Wire, _: str) -> None:
    await wire.close()


async def says_no_http(wire: Wire, _: str) -> None:
    await wire.raw(b"SSH-2.0-OpenSSH_9.2\r\n\r\n")
    await wire.close()


async def says_nothing(wire: Wire, _: str) -> None:
    await wire.silence()


async def stalls_in_the_head(wire: Wire, _: str) -> None:
    await wire.raw(HEAD)
    await wire.silence()


async def stalls_in_the_body(wire: Wire, text: str) -> None:
    await wire.raw(HEAD, b"content-length: 5000\r\n\r\n", chat(text)[:40])
    await wire.silence()


async def trickles_for_ever(wire: Wire, _: str) -> None:
    await wire.raw(HEAD, b"content-length: 5000\r\n\r\n")
    while True:
        await wire.raw(b" ")
        await asyncio.sleep(0.2)


async def trickles(wire: Wire, text: str) -> None:
    body = chat(text)
    await wire.raw(HEAD, b"content-length: %d\r\n\r\n" % len(body))
    for at in range(0, len(body), 200):
        await wire.raw(body[at : at + 200])
        await asyncio.sleep(0.01)


async def says_continue_first(wire: Wire, text: str) -> None:
    await wire.raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nlink: <x>\r\n\r\n")
    await wire.send(chat(text))


async def says_it_twice(wire: Wire, text: str) -> None:
    await wire.send(chat(text))
    await wire.send(chat("the reply to another request"))


async def says_more_later(wire: Wire, text: str) -> None:
    await wire.send(chat(text))
    await asyncio.sleep(0.02)  # the connection is idle, or another request's
    await wire.send(chat("the reply to another request"))


async def redirects_once(wire: Wire, text: str) -> None:
    if wire.attempt == 0:
        await wire.send(b"", 307, location="/v1/chat/completions?moved=1")
    else:
        await wire.send(chat(text))


async def many_headers(wire: Wire, text: str) -> None:
    await wire.send(chat(text), **{f"x_{n}": "y" * 50 for n in range(100)})

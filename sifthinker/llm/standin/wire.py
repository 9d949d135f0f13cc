"""HTTP of the stand-in: connections, answers and forms."""

from __future__ import annotations

import asyncio
import email.parser
import email.policy
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

Answer = tuple[int, dict[str, str], bytes]  # status, headers, body
# Method, path, headers and body to an answer; None: the connection is closed without one.
Handler = Callable[[str, str, Mapping[str, str], bytes], Awaitable[Answer | None]]
CUT = "cut"  # a header that is not sent: the connection breaks half way through the body


async def connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answer_to: Handler) -> None:
    """Serves one HTTP/1.1 connection, kept alive, until the client closes it or an answer breaks it."""
    try:
        while True:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            method, path, _ = head[0].split(" ", 2)
            headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:])}
            body = await reader.readexactly(int(headers.get("content-length", 0)))
            answer = await answer_to(method, path, headers, body)
            if answer is None:
                break  # a stall: closed without an answer
            status, more, raw = answer
            lines = [
                f"HTTP/1.1 {status} -",
                "content-type: application/json",
                f"content-length: {len(raw)}",
            ]
            lines += [f"{name}: {value}" for name, value in more.items() if name != CUT]
            message = "\r\n".join(lines).encode() + b"\r\n\r\n" + raw
            if CUT in more:
                writer.write(message[: len(message) - len(raw) // 2])
                await writer.drain()
                writer.transport.abort()
                break
            writer.write(message)
            await writer.drain()
    except (asyncio.IncompleteReadError, ConnectionError):
        pass  # the client went away
    finally:
        writer.close()


def json_answer(status: int, value: Any, headers: dict[str, str] | None = None) -> Answer:
    """A JSON answer."""
    return status, headers or {}, json.dumps(value).encode()


def error_body(message: str, code: str) -> dict[str, Any]:
    """The body of an error, as providers write it."""
    return {"error": {"message": message, "type": code, "param": None, "code": code}}


def error(status: int, message: str, code: str, headers: dict[str, str] | None = None) -> Answer:
    """An answer that is an error."""
    return json_answer(status, error_body(message, code), headers)


def form_fields(content_type: str, body: bytes) -> dict[str, bytes]:
    """The fields of a multipart form."""
    message = email.parser.BytesParser(policy=email.policy.HTTP).parsebytes(
        f"Content-Type: {content_type}\r\n\r\n".encode() + body
    )
    fields = {}
    for part in message.iter_parts():
        payload = part.get_payload(decode=True)
        if isinstance(payload, bytes):
            fields[str(part.get_param("name", header="content-disposition"))] = payload
    return fields

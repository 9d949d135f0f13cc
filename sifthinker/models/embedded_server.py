"""The embedded server: one model in the OpenAI protocol, on loopback.

It speaks `/v1/chat/completions` (with pictures as data URLs), `/v1/completions` and `/v1/models`. `protocol` reads
requests and writes replies, and `generation` makes them, when it is their turn (`turns`). A request that nobody waits for
any more is given up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sifthinker.core.errors import UserError
from sifthinker.models import protocol
from sifthinker.models.generation import GivenUp, Reply
from sifthinker.models.protocol import Asked, BadRequest, Chat, Completion, Writer
from sifthinker.models.turns import Turns

logger = logging.getLogger(__name__)

HOST = "127.0.0.1"
_NO_CONTENT = 499  # nobody reads it: the client has gone


def application(name: str, turns: Turns) -> Starlette:
    """The server of a model under `name`, as an ASGI application."""

    def answering(kind: type[Asked]) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            """Every error becomes a reply here: one that left the application would end the connection."""
            try:
                asked = protocol.read(kind, await request.body(), name)
                return await (_streamed if asked.stream else _whole)(request, turns, asked)
            except BadRequest as problem:
                return JSONResponse(problem.body(), problem.status)
            except (GivenUp, ClientDisconnect):
                return Response(status_code=_NO_CONTENT)
            except Exception as problem:
                logger.exception("a request failed")
                return JSONResponse(_failed(problem), 500)

        return answer

    async def models(_: Request) -> Response:
        return JSONResponse(protocol.models(name, turns.root))

    async def model(request: Request) -> Response:
        if (wanted := request.path_params["name"]) != name:
            message = f"there is no model {wanted!r} here; this server has {name!r}"
            return JSONResponse(BadRequest(message, "model", 404, "model_not_found").body(), 404)
        return JSONResponse(protocol.one_model(name, turns.root))

    async def health(_: Request) -> Response:
        return JSONResponse({"status": "ok"})

    async def elsewhere(request: Request, problem: Exception) -> Response:
        assert isinstance(problem, HTTPException)
        message = f"{request.method} {request.url.path}: {problem.detail}"
        body = protocol.error(message, "invalid_request_error")
        return JSONResponse(body, problem.status_code, problem.headers)

    return Starlette(
        routes=[
            Route("/v1/chat/completions", answering(Chat), methods=["POST"]),
            Route("/v1/completions", answering(Completion), methods=["POST"]),
            Route("/v1/models", models),
            Route("/v1/models/{name:path}", model),
            Route("/health", health),
        ],
        exception_handlers={HTTPException: elsewhere},
    )


async def _whole(request: Request, turns: Turns, asked: Chat | Completion) -> Response:
    gone = threading.Event()
    watching = asyncio.create_task(_watch(request, gone))
    try:
        reply = await turns.reply(asked, gone)
    finally:
        watching.cancel()
    return JSONResponse(Writer(asked).whole(reply))


async def _watch(request: Request, gone: threading.Event) -> None:
    """Sets `gone` when the client hangs up."""
    while (await request.receive())["type"] != "http.disconnect":
        pass
    gone.set()


async def _streamed(_: Request, turns: Turns, asked: Chat | Completion) -> Response:
    """A stream begins once the request is known to be answerable, so that a bad one still has its status."""
    loop, gone = asyncio.get_running_loop(), threading.Event()
    pieces: asyncio.Queue[str | None] = asyncio.Queue()

    def say(piece: str | None) -> None:
        loop.call_soon_threadsafe(pieces.put_nowait, piece)

    def over(done: asyncio.Future[Reply]) -> None:
        pieces.put_nowait(None)
        if not done.cancelled():
            done.exception()  # looked at here: nobody awaits the reply of a client that has hung up

    reply = asyncio.ensure_future(turns.reply(asked, gone, say))
    reply.add_done_callback(over)
    if await pieces.get() is None:
        await reply  # raises what it failed with
    writer = Writer(asked)

    async def events() -> AsyncIterator[str]:
        try:
            yield writer.first()
            while (piece := await pieces.get()) is not None:
                yield writer.piece(piece)
            yield writer.last(await reply)
        except Exception as problem:  # the status is sent: what remains is to say so
            logger.exception("a stream failed")
            yield protocol.event(_failed(problem))
        finally:
            gone.set()  # where the client has hung up

    return StreamingResponse(events(), media_type="text/event-stream")


def _failed(problem: Exception) -> dict[str, Any]:
    kind = type(problem).__name__
    return protocol.error(f"the server failed: {kind}: {problem}; its log has the details", "server_error")


def run(
    turns: Callable[[], Turns], port: int, name: str, ready: Callable[[str], None] = lambda url: None
) -> None:
    """Serves until it is ended; without a GPU, a process for each core makes the replies.

    Args:
        turns: loads the model.
        port: on loopback; 0 takes a free one.
        name: of the model in requests.
        ready: is told the base URL once requests are answered.

    Raises:
        UserError: the port is in use.
    """
    listening = _bound(port)
    gpu = torch.cuda.is_available()
    if not gpu:
        torch.set_num_threads(
            1
        )  # a process a core; and last bits, so now and then a reply, depend on their number
    made = turns()
    if not gpu:
        made.share(len(os.sched_getaffinity(0)))
    listening.listen(2048)
    ready(f"http://{HOST}:{listening.getsockname()[1]}/v1")
    settings = uvicorn.Config(application(name, made), log_level="warning", timeout_graceful_shutdown=1)
    try:
        uvicorn.Server(settings).run([listening])
    finally:
        made.end()


def _bound(port: int) -> socket.socket:
    """A socket at the port; it takes no connections before the model is loaded."""
    bound = socket.socket()
    bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        bound.bind((HOST, port))
    except (OSError, OverflowError) as error:
        raise UserError(
            f"serve: port {port} of {HOST} cannot be had: {error}; give another one with --port"
        ) from error
    return bound

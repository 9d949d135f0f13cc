"""The embedded server: one model in the OpenAI protocol, on loopback.

It speaks `/v1/chat/completions` (with pictures as data URLs), `/v1/completions` and `/v1/models`. `protocol` reads
requests and writes replies, and `generation` makes them, one at a time on a GPU, else one a core (`workers`); the other
requests wait their turn. A request that nobody waits for any more is given up.
"""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
import uvicorn
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sifthinker.core.errors import UserError
from sifthinker.core.images import BadImage
from sifthinker.models import protocol
from sifthinker.models.generation import GivenUp, Policy, Reply, Unfit, picture
from sifthinker.models.protocol import Asked, BadRequest, Chat, Completion, Writer
from sifthinker.models.workers import Flag, Make, Say, Workers

logger = logging.getLogger(__name__)

Messages = list[dict[str, Any]]
HOST = "127.0.0.1"
_NO_CONTENT = 499  # nobody reads it: the client has gone


class Turns:
    """The model, asked for one reply at a time, or for one a core."""

    def __init__(
        self,
        policy: Policy,
        prepare: Callable[[Messages], Messages] | None = None,
        finish: Callable[[str], str] | None = None,
    ) -> None:
        """Takes the model.

        Args:
            policy: the loaded model.
            prepare: makes of a conversation the one that the model is asked; raises `BadRequest` where it cannot.
                None: it is asked as it is.
            finish: makes of a reply's text the one that is sent; a stream then comes in one piece. None: as it is.
        """
        self.policy, self.prepare, self.finish = policy, prepare, finish
        # With another prompt, or less of the reply, it is not what an evaluation may take for the folder's model.
        self.root = str(policy.folder) if prepare is None and finish is None else ""
        self._make: Make = self._made
        self._threads = ThreadPoolExecutor(1, "generate")
        self._ended = threading.Event()

    def share(self, count: int) -> None:
        """Makes replies in so many processes from now on; before this one starts threads."""
        self._make = Workers(self._made, count, (BadRequest, GivenUp))
        self._threads = ThreadPoolExecutor(count, "generate")

    def reply(
        self, asked: Chat | Completion, gone: threading.Event, say: Say | None = None
    ) -> Awaitable[Reply]:
        """The reply, when its turn has come and it is made; `say` gets the pieces of it, on another thread."""
        return asyncio.get_running_loop().run_in_executor(self._threads, self._turn, asked, gone, say)

    def end(self) -> None:
        """Gives up what is under way, so that no thread keeps this process."""
        self._ended.set()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _turn(self, asked: Chat | Completion, gone: threading.Event, say: Say | None) -> Reply:
        if gone.is_set():
            raise GivenUp
        reply: Reply = self._make(asked, _Either(gone, self._ended), say)
        return reply

    def _made(self, asked: Chat | Completion, gone: Flag, say: Say | None) -> Reply:
        try:
            if isinstance(asked, Chat):
                messages = asked.conversation()
                if self.prepare is not None:
                    messages = self.prepare(messages)
                inputs = self.policy.conversation(_opened(messages))
            else:
                inputs = self.policy.continuation(asked.prompt)
        except (BadImage, Unfit) as problem:
            raise BadRequest(str(problem), "messages" if isinstance(asked, Chat) else "prompt") from problem
        if say is not None:
            say("")  # the request can be answered
        reply = self.policy.reply(inputs, asked.settings(), gone, say if self.finish is None else None)
        if self.finish is None:
            return reply
        text = self.finish(reply.text)
        if say is not None:
            say(text)
        return Reply(text, reply.finish_reason, reply.prompt_tokens, reply.completion_tokens)


class _Either:
    """Set when one of two is."""

    def __init__(self, one: threading.Event, other: threading.Event) -> None:
        self._both = one, other

    def is_set(self) -> bool:
        return any(event.is_set() for event in self._both)


def _opened(messages: Messages) -> Messages:
    """The messages with the pictures themselves in the place of their addresses."""
    return [
        {**m, "content": [picture(part) if part["type"] == "image" else part for part in m["content"]]}
        for m in messages
    ]


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

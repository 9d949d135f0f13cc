"""Clients of S3 for a store's content: many small files and few large ones, up and down, to a local S3 server.

    python -m tests.benchmarks.s3_clients --clients "boto3 one by one" boto3
    pip install --target build/obstore obstore; pip install --target build/s3fs s3fs
    PYTHONPATH=build/obstore:$PWD python -m tests.benchmarks.s3_clients --clients "boto3 one by one" boto3 obstore
    PYTHONPATH=build/s3fs:$PWD python -m tests.benchmarks.s3_clients --clients "boto3 one by one" s3fs

Each round does the same work with each client in turn, after a round that does not count; the table has the medians. The
server is moto's, in another process, whose processor time is not counted. It is slower than the clients, so the clock says
more about the server, and processor time says what a client costs. s3fs brings an older botocore, which excludes our boto3.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.machine import free_port

BUCKET, AT_ONCE = "sif", 8
Work = Callable[[Path, Sequence[str]], None]  # transfers the files of a folder with these names
Client = tuple[Work, Work]  # up, down


def _one_by_one() -> Client:
    """What the store did: boto3's transfers, a file after the other. A download asks for the size first."""
    from sifthinker.store.s3 import Remote

    remote = Remote(f"s3://{BUCKET}/before")

    def up(folder: Path, names: Sequence[str]) -> None:
        for name in names:
            remote.client.upload_file(str(folder / name), BUCKET, remote.prefix + name)

    def down(folder: Path, names: Sequence[str]) -> None:
        for name in names:
            remote.download(name, folder / name)

    return up, down


def _boto3() -> Client:
    """What the store does."""
    from sifthinker.store.s3 import Remote, together

    remote = Remote(f"s3://{BUCKET}/now")

    def up(folder: Path, names: Sequence[str]) -> None:
        together(lambda name: remote.upload(folder / name, name), names)

    def down(folder: Path, names: Sequence[str]) -> None:
        sizes = {name: found.size for name, found in remote.list("").items()}  # a manifest has them
        together(lambda name: remote.download(name, folder / name, sizes[name]), names)

    return up, down


def _obstore() -> Client:
    import obstore
    from obstore.store import S3Store

    store = S3Store(
        BUCKET,
        prefix="obstore",
        endpoint=os.environ["AWS_ENDPOINT_URL_S3"],
        client_options={"allow_http": True},
        virtual_hosted_style_request=False,
    )

    async def put(folder: Path, name: str, room: asyncio.Semaphore) -> None:
        async with room:
            await obstore.put_async(store, name, folder / name)

    async def get(folder: Path, name: str, room: asyncio.Semaphore) -> None:
        async with room:
            found = await obstore.get_async(store, name)
            with (folder / name).open("wb") as file:
                async for chunk in found.stream(min_chunk_size=1 << 20):
                    file.write(chunk)

    def each(work: Callable[..., Any], folder: Path, names: Sequence[str]) -> None:
        async def together() -> None:
            room = asyncio.Semaphore(AT_ONCE)
            await asyncio.gather(*(work(folder, name, room) for name in names))

        asyncio.run(together())

    return (
        lambda folder, names: each(put, folder, names),
        lambda folder, names: each(get, folder, names),
    )


def _s3fs() -> Client:
    import s3fs

    files = s3fs.S3FileSystem(
        endpoint_url=os.environ["AWS_ENDPOINT_URL_S3"], default_fill_cache=False, use_listings_cache=False
    )
    below = f"{BUCKET}/s3fs"

    def up(folder: Path, names: Sequence[str]) -> None:
        files.put(
            [str(folder / name) for name in names],
            [f"{below}/{name}" for name in names],
            batch_size=AT_ONCE,
        )

    def down(folder: Path, names: Sequence[str]) -> None:
        files.get(
            [f"{below}/{name}" for name in names],
            [str(folder / name) for name in names],
            batch_size=AT_ONCE,
        )

    return up, down


CLIENTS: dict[str, Callable[[], Client]] = {
    "boto3 one by one": _one_by_one,
    "boto3": _boto3,
    "obstore": _obstore,
    "s3fs": _s3fs,
}


def _measured(client: str, folder: Path) -> dict[str, list[float]]:
    """Seconds of the clock and of this process's processor, up and down, of all files of a folder."""
    up, down = CLIENTS[client]()
    names = sorted(path.name for path in folder.iterdir())
    found = {}
    with tempfile.TemporaryDirectory() as place:
        for way, work, there in (("up", up, folder), ("down", down, Path(place))):
            spent, began = time.process_time(), time.perf_counter()
            work(there, names)
            found[way] = [time.perf_counter() - began, time.process_time() - spent]
        for name in (names[0], names[-1]):
            assert (Path(place) / name).read_bytes() == (folder / name).read_bytes()
    return found


@contextmanager
def _server() -> Iterator[None]:
    port = free_port()
    server = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "-p", str(port)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    os.environ |= {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "tester",
        "AWS_SECRET_ACCESS_KEY": "not-a-real-secret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    from sifthinker.core.errors import UserError
    from sifthinker.store.s3 import Remote

    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with Remote(f"s3://{BUCKET}")._explained("reach"):
                    Remote(f"s3://{BUCKET}").client.create_bucket(Bucket=BUCKET)
                break
            except UserError:
                assert time.monotonic() < deadline and server.poll() is None, "the S3 server did not start"
        yield
    finally:
        server.terminate()
        server.wait()


def main() -> None:
    """Prints a line for each client and kind of files."""
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    arguments.add_argument("--rounds", type=int, default=5)
    arguments.add_argument("--small", type=int, nargs=2, default=[500, 100_000], metavar=("FILES", "BYTES"))
    arguments.add_argument("--large", type=int, nargs=2, default=[2, 500_000_000], metavar=("FILES", "BYTES"))
    arguments.add_argument("--clients", nargs="+", choices=CLIENTS, default=["boto3 one by one", "boto3"])
    given = arguments.parse_args()
    print("| client | files | up: s | up: s of processor | down: s | down: s of processor |")
    print("|---|---|---|---|---|---|")
    for count, size in (given.small, given.large):
        with _server(), tempfile.TemporaryDirectory() as folder:
            for number in range(count):
                (Path(folder) / f"{number:05}").write_bytes(os.urandom(size))
            rounds = [
                {client: _measured(client, Path(folder)) for client in given.clients}
                for _ in range(1 + given.rounds)
            ][1:]
        for client in given.clients:
            figures = [
                statistics.median(one[client][way][what] for one in rounds)
                for way in ("up", "down")
                for what in (0, 1)
            ]
            cells = " | ".join(f"{figure:.2f}" for figure in figures)
            print(f"| {client} | {count:,} x {size / 1000:,.0f} kB | {cells} |", flush=True)


if __name__ == "__main__":
    main()

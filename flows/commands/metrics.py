"""`sif metrics`: what a store holds and whether the Prefect server is well, for Prometheus."""

from __future__ import annotations

import logging
import time
from typing import Annotated

import typer

from flows import server
from flows.commands.options import StoreConfigOption, StoreOption, console, existing
from sifthinker.core.errors import UserError
from sifthinker.system.disk_errors import explained

LOOPBACK = "127.0.0.1"


def metrics(
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 9464,
    host: Annotated[
        str, typer.Option(help="address that is listened at; anyone who reaches it reads names and scores")
    ] = LOOPBACK,
    once: Annotated[
        bool,
        typer.Option("--once", help="print the metrics and end: for node_exporter's textfile collector"),
    ] = False,
    store: StoreOption = None,
    config: StoreConfigOption = [],  # noqa: B006 (typer copies it)
) -> None:
    """Serves rows, calls, tokens, money, rejects, training, scores and nights of a store at /metrics, until it is interrupted.

    It also asks the Prefect server of PREFECT_API_URL whether it answers, and for scheduled runs that are late.
    """
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(message)s")
    # As at later looks, `sif_part_readable` says what is missing.
    opened = existing(store, config, pull="may")
    server.settings_of_a_look(opened.root)
    from prometheus_client import CollectorRegistry, generate_latest, start_http_server

    from sifthinker.upkeep.metrics import StoreCollector
    from tasks.operations import server_metrics

    registry = CollectorRegistry()
    registry.register(StoreCollector(opened, {"server": server_metrics.read}))
    if once:
        with explained("metrics"):
            typer.echo(generate_latest(registry).decode(), nl=False)
        return
    try:
        exporter, _ = start_http_server(port, host, registry)
    except OSError as error:
        raise UserError(
            f"metrics: {host}:{port} cannot be listened at: {error.strerror}; give another --port"
        ) from error
    console.print(f"http://{host}:{exporter.server_port}/metrics", highlight=False, soft_wrap=True)
    console.print("Ctrl+C ends it.", highlight=False)
    while True:
        time.sleep(3600)

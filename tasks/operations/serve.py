"""serve: a model in the OpenAI protocol, for other people's programs, until it is interrupted."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sifthinker.config import Config
from sifthinker.store.artifacts import Store
from sifthinker.store.checkpoints import find
from sifthinker.store.manifest import Ref
from tasks.operations.depth_weights import weights


def serve(
    config: Config,
    model: str,
    port: int,
    name: str,
    chain: bool,
    reply: str,
    ready: Callable[[str], None],
) -> None:
    """Serves a model on loopback.

    Args:
        config: names the store, the depth model, and how the policy is asked.
        model: a folder, an alias, a run, or 'latest' of the store.
        port: on loopback.
        name: of the model in requests.
        chain: a question with one picture is put as in training, with its depth picture.
        reply: the part of each reply that is sent: whole, answer, boxes.
        ready: is told the base URL once requests are answered.

    Raises:
        UserError: no such model, or the port is in use.
    """
    from sifthinker.data import depth_estimation  # these import torch
    from sifthinker.evaluation import as_trained
    from sifthinker.models import embedded_server, generation, turns
    from sifthinker.models.budget import as_merged

    store = Store.of(config)
    found = Path(model) if (Path(model) / "config.json").is_file() else find(store, model)
    folder = store.open(found).path if isinstance(found, Ref) else found
    form: Any = reply

    with tempfile.TemporaryDirectory() as work:
        folder = as_merged(folder, config.model.max_pixels, Path(work) / "served")

        def loaded() -> turns.Turns:
            policy = generation.Policy(folder)
            finish = (
                None if form == "whole" else lambda text: as_trained.text(text, form, config.evaluate.think)
            )
            if not chain:
                return turns.Turns(policy, finish=finish)
            sees_depth = config.model.depth_input
            depth_model = weights(store, config, Path(work)) if sees_depth else None
            depth = depth_estimation.estimator(depth_model, config.depth) if depth_model else None
            return turns.Turns(policy, lambda asked: as_trained.messages(asked, depth, config), finish)

        embedded_server.run(loaded, port, name, ready)

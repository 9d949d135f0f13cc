"""ask: what a single question needs from the store and from servers; no stage, nothing is kept there."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path

from sifthinker.config import Config
from sifthinker.core.errors import UserError
from sifthinker.core.records import Reject
from sifthinker.evaluation import ask as domain
from sifthinker.evaluation import running_server
from sifthinker.models import serving
from sifthinker.models.budget import as_merged
from sifthinker.store.artifacts import Store
from sifthinker.store.checkpoints import find
from sifthinker.store.manifest import Ref
from tasks.operations.depth_weights import weights


def answer(
    config: Config,
    image: Path,
    question: str,
    model: str,
    server: str | None,
    out: Path,
    say: Callable[[str], None],
) -> domain.Answered:
    """Estimates the depth, starts a server of the model unless one is given, and asks.

    Raises:
        UserError: no image, no such model, or no answer.
    """
    store = Store.of(config)
    found = None if server else find(store, model)
    folder = store.open(found).path if isinstance(found, Ref) else found
    with tempfile.TemporaryDirectory() as work:
        depth = _depth(store, config, domain.picture(image, config), Path(work))
        if folder is None:
            assert server
            there = domain.Server(server, running_server.served(server)[0])
            return domain.ask(image, question, there, depth, config, out, say)
        folder = as_merged(folder, config.model.max_pixels, Path(work) / "served")
        started, log = config.evaluate.server, Path(work) / "server.log"
        with serving.serving(folder, started, log, python=config.evaluate.python) as url:
            ours = domain.Server(url, serving.MODEL_NAME, serving.suppression(started, url, folder))
            return domain.ask(image, question, ours, depth, config, out, say)


def _depth(store: Store, config: Config, image: bytes, work: Path) -> bytes | None:
    """The image's depth map by the depth model of the latest run, else by the configured one."""
    if not config.model.depth_input:
        return None
    from sifthinker.data import depth_estimation  # imports torch

    found = weights(store, config, work)
    [made] = depth_estimation.estimate([(hashlib.sha256(image).hexdigest(), image)], found, config.depth)
    if isinstance(made, Reject):
        raise UserError(f"no depth map: {made.detail}")
    return made.png

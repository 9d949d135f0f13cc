"""A stage's job as the runtime of trainings sees it, without a store or a Prefect server."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any


def job(store: Path, name: str = "key") -> Any:
    work, out = store / "sft" / f"{name}.work", store / "sft" / f"{name}.out"
    work.mkdir(parents=True, exist_ok=True)
    progress = SimpleNamespace(total=None, at=lambda done, note: None)
    config = SimpleNamespace(pools=SimpleNamespace(wait=0.1))
    order = SimpleNamespace(label="sft", key="0123456789", config=SimpleNamespace(name="test"))
    here = SimpleNamespace(root=store)
    log = logging.getLogger("test")
    return SimpleNamespace(
        work=work, out=out, log=log, order=order, progress=progress, config=config, store=here
    )

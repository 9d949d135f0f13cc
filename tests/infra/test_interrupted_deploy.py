"""`make deploy` that is interrupted."""

from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from infra import deploy as deploy_program


def test_what_is_paused_stays_paused_though_deploying_is_interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    paused, restored = list[str](), list[Any]()
    kept = deploy_program.parameters.Kept("nightly/nightly", uuid4(), {"tier": "quick"})
    there = [SimpleNamespace(id="training", paused=True), SimpleNamespace(id="nightly", paused=False)]
    client = SimpleNamespace(
        read_work_pools=lambda **_: [],
        read_deployments=lambda: there,
        pause_deployment=paused.append,
        read_artifacts=lambda **_: [],
        create_artifact=lambda _: None,
    )
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:9/api")
    monkeypatch.setattr(deploy_program, "get_client", lambda **_: nullcontext(client))
    monkeypatch.setattr(deploy_program, "keep", lambda _: [])
    monkeypatch.setattr(deploy_program.parameters, "found", lambda *_: [kept])
    monkeypatch.setattr(deploy_program.parameters, "restore", lambda _, kept: restored.extend(kept) or [])
    monkeypatch.setattr(deploy_program.subprocess, "call", lambda *_, **__: 0)

    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt  # by now the command may have registered, and so resumed, some

    monkeypatch.setattr(deploy_program.subprocess, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        deploy_program.main()
    assert paused == ["training"] and restored == [kept]

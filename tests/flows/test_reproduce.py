"""The shape of the reproduction: which stages there are, in which order, fed by what."""

from __future__ import annotations

from pathlib import Path
from typing import Any, get_args

from flows.labels import Label
from flows.reproduce import reproduction
from sifthinker.config import Config

ROOT = Path(__file__).resolve().parents[2]

GRAPH = {
    "scenes": "",
    "depth-weights": "",
    "policy-weights": "",
    "ingest": "",
    "expand": "samples=ingest",
    "depth": "samples=ingest weights=depth-weights",
    "annotate": "samples=ingest focus=expand maps=depth",
    "publish": "samples=ingest chains=annotate maps=depth",
    "subset": "sif=publish",
    "sft": "base=policy-weights sif=publish",
    "merge-sft": "base=policy-weights adapter=sft subset=subset",
    "grpo": "base=merge-sft subset=subset",
    "merge-grpo": "base=merge-sft adapter=grpo subset=subset",
    "evaluate": "model=merge-grpo weights=depth-weights",
    "report": "estimator=depth-weights base=policy-weights samples=ingest focus=expand maps=depth chains=annotate sif=publish subset=subset sft=sft "
    "warm=merge-sft grpo=grpo model=merge-grpo evaluate=evaluate",
}


class Drawing:
    """Stands for a run: writes down who is fed by whom."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.graph: dict[str, str] = {}
        self.stages: dict[str, Any] = {}
        self.configs: dict[str, Config] = {}

    def __call__(self, stage: Any, label: str = "", config: Config | None = None, **inputs: str) -> str:
        label = label or stage.name.replace("_", "-")
        self.graph[label] = " ".join(f"{name}={ref}" for name, ref in inputs.items())
        self.stages[label] = stage
        self.configs[label] = config or self.config
        return label

    def provide(self, rendered: str) -> None:
        assert rendered == "scenes"


def drawn(**config: Any) -> Drawing:
    drawing = Drawing(Config.model_validate(config))
    reproduction(drawing)  # type: ignore[arg-type]
    return drawing


def test_the_graph_of_the_reproduction() -> None:
    assert drawn(scenes={}).graph == GRAPH


def test_without_scenes_the_users_files_are_all_there_is() -> None:
    sources = [{"name": "a", "format": "viscot", "path": "a.json"}]
    assert drawn(sources=sources).graph == {k: v for k, v in GRAPH.items() if k != "scenes"}


def test_with_passes_over_the_dead_letters_publish_takes_the_chains_of_retry() -> None:
    fed = "samples=ingest focus=expand maps=depth"
    graph = drawn(scenes={}, retry={"passes": [{"model": "other"}]}).graph
    assert (graph["retry"], graph["publish"]) == (
        f"{fed} chains=annotate",
        GRAPH["publish"].replace("annotate", "retry"),
    )


def test_the_form_of_the_ui_offers_exactly_the_stages() -> None:
    every = drawn(scenes={}, retry={"passes": [{"model": "other"}]}, evaluate={"also": ["sft", "base"]})
    assert list(get_args(Label)) == list(every.graph)


def test_the_models_before_the_last_one_are_evaluated_where_it_is_asked_for() -> None:
    drawing = drawn(scenes={}, evaluate={"also": ["base", "sft"]})
    graph = drawing.graph
    assert graph["evaluate-base"] == "model=policy-weights weights=depth-weights"
    assert graph["evaluate-sft"] == "model=merge-sft weights=depth-weights"
    assert graph["report"].endswith("evaluate=evaluate evaluate_base=evaluate-base evaluate_sft=evaluate-sft")
    base = drawing.configs["evaluate-base"].evaluate
    assert (base.think, base.box_frame) == (False, "family")


def test_a_stages_task_fits_on_a_page() -> None:
    thin = [
        p
        for p in (ROOT / "tasks").glob("*.py")
        if p.stem not in ("stage", "run", "identity", "process", "sweep", "placement", "doctor")  # no stages
    ]
    for path in thin:
        lines = [x for x in path.read_text().splitlines() if x.strip()]
        assert len(lines) <= 80, (
            f"{path.name}: {len(lines)} lines; what a stage means belongs into sifthinker/"
        )


def test_the_shards_of_the_depth_stage_share_one_gpu() -> None:
    assert drawn(scenes={}).stages["depth"].in_turn


def test_chains_that_the_sources_bring_go_from_ingest_to_annotate() -> None:
    taken = {"name": "sif", "format": "published", "path": "a.json"}
    graph = drawn(sources=[taken]).graph
    assert graph["annotate"] == "samples=ingest focus=expand maps=depth given=ingest"
    mixed = drawn(sources=[taken, {"name": "v", "format": "viscot", "path": "b.json"}]).graph
    assert mixed["annotate"] == graph["annotate"]


def test_a_file_of_rl_rows_that_is_not_there_is_told_before_anything_runs() -> None:
    taken = {"name": "sif", "format": "published", "path": "a.json"}
    drawing = drawn(sources=[taken], publish={"rl_file": "none.json"})
    assert drawing.stages["subset"].lacks(drawing.config) == ["publish.rl_file: none.json does not exist"]

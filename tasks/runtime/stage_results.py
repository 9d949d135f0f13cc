"""What decides each stage's result: the modules that it starts from, its libraries, the data files of ours that it reads.

The imports of those modules are followed (tasks/runtime/closure.py). tasks/runtime/results.py says where each one is.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sifthinker.config import STANDIN, Api, Config, Train
from sifthinker.training import samplers

TOY = "tiny"  # as weights: built on the spot (models.TINY, whose module imports torch)


@dataclass(frozen=True)
class Results:
    """What decides the result of a stage, besides its configuration and its inputs."""

    modules: tuple[str, ...] = ()  # logical names; what they import is found
    libraries: tuple[str, ...] = ()  # distributions that compute it; by major.minor
    data: tuple[tuple[str, str], ...] = ()  # files of ours that programs read: name in a key, path below ROOT
    given: tuple[Callable[[Config], Results], ...] = ()  # what more there is with a configuration
    elsewhere: tuple[tuple[str, Path], ...] = ()  # libraries of another environment, with its interpreter

    def of(self, config: Config) -> Results:
        """All that there is with a configuration."""
        more = [given(config) for given in self.given]
        return Results(
            (*self.modules, *(name for found in more for name in found.modules)),
            tuple(dict.fromkeys((*self.libraries, *(name for found in more for name in found.libraries)))),
            (*self.data, *(pair for found in more for pair in found.data)),
            elsewhere=tuple(pair for found in more for pair in found.elsewhere),
        )


_TRAINING = ("torch", "transformers", "peft", "accelerate", "pillow", "numpy")


def _standin(api: Callable[[Config], Api | None]) -> Callable[[Config], Results]:
    """The embedded stand-in's replies, where it answers."""

    def given(config: Config) -> Results:
        found = api(config)
        return _said(found) if found else Results()

    return given


def _said(api: Api) -> Results:
    if api.base_url != STANDIN:
        return Results()
    if api.standin_sees == "miniature":
        return Results(("standin/replies", "standin/seeing", "standin/eyes"), ("torch", "transformers"))
    return Results(
        ("standin/replies",) if api.standin_sees == "nothing" else ("standin/replies", "standin/seeing")
    )


def _taken(config: Config) -> Results:
    return Results(("taken",) if config.taken else ())


def _rl_file(config: Config) -> Results:
    return Results(("rl_file",) if config.publish.rl_file else ())


def _passes(config: Config) -> Results:
    said = [_said(each.api or config.annotate.api) for each in config.retry.passes]
    return Results(
        tuple(dict.fromkeys(name for found in said for name in found.modules)),
        tuple(dict.fromkeys(name for found in said for name in found.libraries)),
    )


def _toy(weights: Callable[[Config], str]) -> Callable[[Config], Results]:
    """The builder of a random model, where one is asked for."""
    built = Results(("tiny",), ("torch", "transformers", "tokenizers"))
    return lambda config: built if weights(config) == TOY else Results()


def _deepspeed(settings: Callable[[Config], Train]) -> Callable[[Config], Results]:
    def given(config: Config) -> Results:
        name = settings(config).deepspeed
        if name == "none":
            return Results()
        file = f"{name}.json"
        return Results((), ("deepspeed",), ((f"DeepSpeed {file}", f"sifthinker/training/deepspeed/{file}"),))

    return given


def _family(config: Config) -> Results:
    """The entry of the policy's family, and of no other: a new family changes no key."""
    return Results((f"families/{config.model.family}",))


def _sampler(config: Config) -> Results:
    used, python = samplers.of(config.grpo), config.grpo.vllm.python
    return Results(used.modules, used.libraries, elsewhere=_of(python, used.libraries))


def _of(python: Path | None, libraries: tuple[str, ...]) -> tuple[tuple[str, Path], ...]:
    return tuple((library, python) for library in libraries) if python else ()


def _trained(settings: Callable[[Config], Train], libraries: tuple[str, ...]) -> Callable[[Config], Results]:
    """The libraries of the environment that trains, where it is not the flow's."""
    return lambda config: Results(elsewhere=_of(settings(config).python, (*libraries, "deepspeed")))


def server(config: Config) -> Results:
    """The libraries of a server that the stage `evaluate` starts; one that runs already is in the key by its address."""
    found = SERVERS.get(config.evaluate.server, Results())
    return replace(found, elsewhere=_of(config.evaluate.python, found.libraries))


SERVERS = {
    "transformers": Results((), ("torch", "transformers")),
    "vllm": Results(("serve/vllm",), ("vllm",)),
}
_CHARTS = ("pillow", "matplotlib")
_PAGES = tuple(
    (name, f"sifthinker/reporting/templates/{name}")
    for name in ("report.html.jinja", "first.html.jinja", "style.css.jinja", "score_gaps.html.jinja")
)

RESULTS: dict[str, Results] = {
    "scenes": Results(("stages/scenes", "scenes"), ("pillow", "numpy")),
    "policy_weights": Results(("stages/weights", "models"), given=(_toy(lambda c: c.model.weights),)),
    "depth_weights": Results(("stages/weights", "models"), given=(_toy(lambda c: c.depth.weights),)),
    "ingest": Results(
        ("stages/ingest", "ingest"), ("pillow", "numpy")
    ),  # numpy: pictures of more than 8 bits
    "expand": Results(("stages/expand", "expand")),
    "depth": Results(("stages/depth", "estimate", "images"), ("torch", "transformers", "pillow", "numpy")),
    "annotate": Results(
        ("stages/annotate", "annotate"),
        ("pillow", "numpy"),
        given=(_standin(lambda c: c.annotate.api), _taken),
    ),
    "retry": Results(("stages/retry", "retry"), ("pillow", "numpy"), given=(_passes,)),
    "publish": Results(("stages/publish", "publish"), ("pyarrow", "pillow", "numpy")),
    "subset": Results(("stages/publish", "publish"), ("pyarrow",), given=(_rl_file,)),
    "sft": Results(
        ("stages/sft", "training/sft"),
        ("trl", *_TRAINING),
        given=(_family, _deepspeed(lambda c: c.sft), _trained(lambda c: c.sft, ("trl", *_TRAINING))),
    ),
    "merge": Results(
        ("stages/merge", "training/merge"),
        ("torch", "transformers", "peft", "pillow", "numpy"),
        given=(_family,),
    ),
    "grpo": Results(
        ("stages/grpo", "training/grpo"),
        ("trl", *_TRAINING, "scipy"),  # scipy: matches boxes in the grounding reward
        given=(
            _family,
            _deepspeed(lambda c: c.grpo),
            _trained(lambda c: c.grpo, ("trl", *_TRAINING, "scipy")),
            _sampler,
            _standin(lambda c: c.grpo.judge),
        ),
    ),
    "evaluate": Results(
        ("stages/evaluate", "evaluate", "serve", "estimate"),
        ("torch", "transformers", "pillow", "numpy", "scipy"),  # depth maps; scores
        given=(_family, server, _standin(lambda c: c.evaluate.judge)),
    ),
    "report": Results(("stages/report", "report", "lineage"), _CHARTS, _PAGES),
    "ablation": Results(("stages/ablation", "ablation"), ("numpy", "scipy", *_CHARTS)),
}

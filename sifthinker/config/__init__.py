"""What a person can set: the sections of a configuration, reading one from YAML, and checking it.

Everybody imports from this package, and nobody from the files in it, except for `choices`.

Every default is the paper's and names its source, or says "not given in the paper". A field marked `operational()`
changes how a stage runs, never what comes out (paths, concurrency, time-outs, environment variable names). It is left
out of the stage's identity, so changing it reruns nothing. Nothing in this package decides a result except by the
values it holds, so the package is left out of the code digests.
"""

from sifthinker.config.api import LOCAL, SERVED, STANDIN, UNNAMED, Again, Annotate, Api, Prices, Retry
from sifthinker.config.data import Depth, Expand, Ingest, Publish, Published, Scenes, Source
from sifthinker.config.evaluation import (
    STARTED,
    Ablation,
    Benchmark,
    Evaluate,
    Nightly,
    Report,
    Tier,
    Variant,
)
from sifthinker.config.placement import Dask, Pools
from sifthinker.config.reading import (
    as_yaml,
    assignments,
    changed,
    identity,
    is_operational,
    load,
    load_section,
    load_text,
    parse,
    parse_value,
)
from sifthinker.config.reproduction import Config
from sifthinker.config.section import Section, added, operational
from sifthinker.config.training import Grpo, Lora, Merge, Model, Rewards, Sft, Train

__all__ = [
    "LOCAL",
    "SERVED",
    "STANDIN",
    "STARTED",
    "UNNAMED",
    "Ablation",
    "Again",
    "Annotate",
    "Api",
    "Benchmark",
    "Config",
    "Dask",
    "Depth",
    "Evaluate",
    "Expand",
    "Grpo",
    "Ingest",
    "Lora",
    "Merge",
    "Model",
    "Nightly",
    "Pools",
    "Prices",
    "Publish",
    "Published",
    "Report",
    "Retry",
    "Rewards",
    "Scenes",
    "Section",
    "Sft",
    "Source",
    "Tier",
    "Train",
    "Variant",
    "added",
    "as_yaml",
    "assignments",
    "changed",
    "identity",
    "is_operational",
    "load",
    "load_section",
    "load_text",
    "operational",
    "parse",
    "parse_value",
]

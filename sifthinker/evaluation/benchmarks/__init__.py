"""The benchmarks of the paper, one file each, in their published formats and with their published metrics.

Every benchmark gives two scores: `official`, the published rule to the letter, so that numbers compare, and
`strict`, what the reply says, with everything unreadable wrong and counted. The final answer is the text of the
chain's answer block, the box that of its last area.

A new benchmark is a file here (`question.Rules`), an entry below, and a test. What its entry says is all that others
need to know of it: the evaluation, the nights, the ablation and the report name no benchmark.
"""

from sifthinker.evaluation.benchmarks import (
    cvbench,
    mmbench,
    mme,
    ovdeval,
    pope,
    refcoco,
    sat,
    seed,
    sif,
    spatialbench,
    viscot,
    vqav2,
    vstar,
)
from sifthinker.evaluation.benchmarks.question import Benchmark

SAMPLED = " sampled"  # ends the name of a benchmark in scores and predictions where its replies are sampled

BENCHMARKS: dict[str, Benchmark] = {
    "vstar": Benchmark(vstar, ("overall",)),
    "refcoco": Benchmark(refcoco, turned=refcoco.turned),
    "spatialbench": Benchmark(spatialbench, ("average",)),
    "cvbench": Benchmark(cvbench, ("average",)),
    "sat": Benchmark(sat, ("static",)),
    "pope": Benchmark(pope, ("average",)),
    "mme": Benchmark(mme, ("perception", "cognition")),
    "seed": Benchmark(seed, ("image",)),
    "mmbench": Benchmark(mmbench, submission=mmbench.submission),
    "vqav2": Benchmark(vqav2, ("overall",), submission=vqav2.submission),
    "ovdeval": Benchmark(ovdeval, ("average",), turned=ovdeval.turned),
    "viscot": Benchmark(viscot, ("average",), judge_requests=viscot.judge_requests),
    "sif": Benchmark(sif, scores_chain=True),
}

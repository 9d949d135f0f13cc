"""The benchmarks of the paper, one file each, in their published formats and with their published metrics.

Every benchmark gives two scores: `official`, the published rule to the letter, so that numbers compare, and
`strict`, what the reply says, with everything unreadable wrong and counted. The final answer is the text of the
chain's answer block, the box that of its last area.
"""

from sifthinker.benchmarks import refcoco, spatialbench, vstar
from sifthinker.benchmarks.question import Benchmark

BENCHMARKS: dict[str, Benchmark] = {
    "vstar": vstar,
    "refcoco": refcoco,
    "spatialbench": spatialbench,
}

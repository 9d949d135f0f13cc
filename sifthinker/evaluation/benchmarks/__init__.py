"""The benchmarks of the paper, one file each, in their published formats and with their published metrics.

Every benchmark gives two scores: `official`, the published rule to the letter, so that numbers compare, and
`strict`, what the reply says, with everything unreadable wrong and counted. The final answer is the text of the
chain's answer block, the box that of its last area.
"""

from collections.abc import Callable, Sequence

from sifthinker import config, llm
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
from sifthinker.evaluation.benchmarks.question import Answer, Benchmark, Question

BENCHMARKS: dict[str, Benchmark] = {
    "vstar": vstar,
    "refcoco": refcoco,
    "spatialbench": spatialbench,
    "cvbench": cvbench,
    "sat": sat,
    "pope": pope,
    "mme": mme,
    "seed": seed,
    "mmbench": mmbench,
    "vqav2": vqav2,
    "ovdeval": ovdeval,
    "viscot": viscot,
    "sif": sif,
}
# What scores the whole reply, and its depths against the image's map.
WHOLE = ("sif",)
# Where a reference holds boxes: the question for a picture that an EXIF orientation turns. Those of `sif` are turned
# by its reader.
TURNED: dict[str, Callable[[Question, int], Question]] = {
    "refcoco": refcoco.turned,
    "ovdeval": ovdeval.turned,
}
# Where answers are free text: what to ask a judge, whose replies come back in `Answer.judged`.
JUDGED: dict[str, Callable[[Question, Answer, str], Sequence[llm.Request]]] = {
    "viscot": viscot.judge_requests
}
# Where a split's answers are hidden: the file for the server that has them, from what the replies were read as.
SUBMISSIONS: dict[str, Callable[[config.Benchmark, Sequence[tuple[Question, str]]], tuple[str, bytes]]] = {
    "mmbench": mmbench.submission,
    "vqav2": vqav2.submission,
}

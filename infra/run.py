"""Carries out one flow run, and stays until its training has ended: the command of a run's Job on Kubernetes.

    PREFECT__FLOW_RUN_ID=... python -m infra.run
    python -m infra.run sif join artifacts      # any other command: of the Job of two nodes

On SIGTERM (a drained node, a deleted Job) Prefect sets the run to AwaitingRetry, tells it to end, and kills it 30 s
later. A training that makes its checkpoint then goes on without it, as long as the container lasts: until this process
ends. The next Job of the run resumes at that checkpoint.

The first process of a container gets no signal that it has no handler for: the kernel drops it. A command that is started
from here gets each, whether it has a handler yet or not.
"""

from __future__ import annotations

import logging
import sys

from infra.worker import supervise

COMMAND = (sys.executable, "-m", "prefect", "flow-run", "execute")


def main() -> None:
    """Runs it, or the command of the arguments, and ends with its exit code."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s: %(message)s")
    code, _ = supervise(sys.argv[1:] or COMMAND)
    sys.exit(code)


if __name__ == "__main__":
    main()

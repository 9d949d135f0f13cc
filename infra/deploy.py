"""Registers the work pools and deployments of prefect.yaml with the server of PREFECT_API_URL.

May be repeated: deployments are updated; pools that are there, and what is paused, stay as people have set them.
"""

import os
import subprocess
import sys
from pathlib import Path

from prefect.client.orchestration import get_client

ROOT = Path(__file__).resolve().parents[1]
FILE = Path("infra") / "prefect.yaml"


def main() -> None:
    """Registers everything, and ends with the status of the command that does so."""
    if not os.environ.get("PREFECT_API_URL"):  # Prefect would start a server that ends with this command
        sys.exit("deploy: set PREFECT_API_URL to the server's address, e.g. http://127.0.0.1:4200/api")
    # -m: this file is run by its path, and the modules beside it are found from the root
    if status := subprocess.call([sys.executable, "-m", "infra.pools"], cwd=ROOT):
        sys.exit(status)
    with get_client(sync_client=True) as client:
        paused = [deployment.id for deployment in client.read_deployments() if deployment.paused]
        # -m: this folder is then on the import path, for the steps
        command = ["-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(FILE)]
        status = subprocess.call([sys.executable, *command], cwd=ROOT)
        for identifier in paused:  # registering resumes them
            client.pause_deployment(identifier)
    status = status or subprocess.call([sys.executable, "-m", "infra.automations"], cwd=ROOT)
    sys.exit(status)


if __name__ == "__main__":
    main()

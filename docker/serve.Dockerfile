# vLLM with a merged policy, mounted at /model, for whoever asks it by hand or for `evaluate.server: http://vllm:8000/v1`.
#   docker build -f docker/serve.Dockerfile --build-arg COMMIT=$(git rev-parse HEAD) -t sifthinker-serve:0.1.0 .
# For a machine without a GPU, --target cpu: vLLM's build for processors (TORCH_INDEX_URL: an index with torch 2.13.0+cpu,
# where the usual one has none). VLLM_CPU_KVCACHE_SPACE is the size of its cache in GiB, 1 unless it is set.
#   docker run --rm -p 127.0.0.1:8000:8000 -v PATH/artifacts/merge/KEY:/model:ro sifthinker-serve:0.1.0
# The command is that of the stages (sifthinker/models/vllm_command.py): the folder's data type, two pictures a prompt, neutral
# sampling. Only the address differs: a container's loopback is reachable from nowhere. Publish the port on the host's
# loopback only; set VLLM_API_KEY for more. Requests name the tokens that are never sampled; `evaluate` does.
# Build argument PYTHON_IMAGE: another base.

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM $PYTHON_IMAGE AS base
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 \
    TRITON_CACHE_DIR=/home/sif/.cache/triton TORCHINDUCTOR_CACHE_DIR=/home/sif/.cache/inductor \
    HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
# Triton compiles its launchers (C), and vLLM kernels by torch.compile (C++), when they first run. Debian keeps only the
# latest version of a package: unpinned.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /app
RUN useradd --uid 10001 --create-home sif && install -d -o sif -g sif /home/sif/.cache
EXPOSE 8000
# Ready: vLLM opens its port when the model is loaded.
HEALTHCHECK --interval=15s --timeout=20s --start-period=30m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]

FROM base AS cpu
ARG TORCH_INDEX_URL=
COPY docker/vllm-cpu.txt docker/vllm-cpu.sh ./
RUN bash vllm-cpu.sh /opt/vllm python && ln -s /opt/vllm/bin/vllm /usr/local/bin/vllm
# Its kernels are not found without libnuma, and then no engine starts: "'_OpNamespace' '_C' object has no attribute".
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends libnuma1 && rm -rf /var/lib/apt/lists/* \
    && /opt/vllm/bin/python -c "import torch, vllm._C"
COPY sifthinker/models/vllm_command.py ./
USER 10001:10001
# As in vllm_command.py: with chunks, a sampled request with a seed ends this build's engine.
ENTRYPOINT ["python", "vllm_command.py", "--host", "0.0.0.0", "--port", "8000", "/model", "--", "--no-enable-chunked-prefill"]
ARG COMMIT=unknown
LABEL org.opencontainers.image.title=sifthinker-serve-cpu org.opencontainers.image.revision=$COMMIT

FROM base AS gpu
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility
COPY docker/vllm.txt ./
RUN pip install torch==2.13.0 -r vllm.txt
COPY sifthinker/models/vllm_command.py ./
USER 10001:10001
ENTRYPOINT ["python", "vllm_command.py", "--host", "0.0.0.0", "--port", "8000", "/model"]
ARG COMMIT=unknown
LABEL org.opencontainers.image.title=sifthinker-serve org.opencontainers.image.revision=$COMMIT

# A worker with GPUs: depth, SFT, GRPO, merge, evaluation.
#   docker build -f docker/train.Dockerfile --build-arg COMMIT=$(git rev-parse HEAD) -t sifthinker-train:0.1.0 .
# The CUDA runtime (13.0) is the one that torch's own wheels are built for and bring along, pinned by torch itself; a
# CUDA base image would be a second one, of another version, and several GB. The machine gives the driver only
# (NVIDIA container toolkit). DeepSpeed builds nothing here: torch's AdamW, no fused operations.
# Build arguments: PYTHON_IMAGE, another base. For a machine without a GPU: TORCH_INDEX_URL, an index with torch's CPU
# wheels, as in worker.Dockerfile, and VLLM=no, which leaves vLLM out (`evaluate.server: transformers` needs none).

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

# As in worker.Dockerfile: what is to be installed, without the comments beside it.
FROM $PYTHON_IMAGE AS names
WORKDIR /names
COPY pyproject.toml constraints.txt docker/names.py ./
RUN python names.py

FROM $PYTHON_IMAGE
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 SIF_HOME=/app DS_BUILD_OPS=0 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility MPLCONFIGDIR=/home/sif/.cache/matplotlib \
    TRITON_CACHE_DIR=/home/sif/.cache/triton TORCHINDUCTOR_CACHE_DIR=/home/sif/.cache/inductor
# Triton compiles its launchers (C), and torch.compile its kernels for the processor (C++), when they first run. Debian keeps
# only the latest version of a package: unpinned.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /app
# The volumes take their owner from these folders when they are first mounted.
RUN useradd --uid 10001 --create-home sif && install -d -o sif -g sif artifacts data /home/sif/.cache
COPY --from=names /names/pins.txt ./
# torch on a line of its own: the largest layer, and no other torch may come in its place.
ARG TORCH_INDEX_URL=
RUN PIP_EXTRA_INDEX_URL=$TORCH_INDEX_URL pip install setuptools==84.2.1 wheel==0.48.0 ninja==1.13.2 torch==2.13.0 -c pins.txt
# `evaluate.server: vllm` starts what is called vllm on the path; it cannot share the environment of the rest. The two
# want the same torch: vLLM's environment sees the one above, and has its own version of everything else that it names.
ARG VLLM=yes
COPY docker/vllm.txt ./
RUN test "$VLLM" = no || (python -m venv --system-site-packages /opt/vllm && /opt/vllm/bin/pip install -r vllm.txt \
    && test ! -e /opt/vllm/lib/python3.11/site-packages/torch && ln -s /opt/vllm/bin/vllm /usr/local/bin/vllm)
COPY --from=names /names/base.txt /names/train.txt ./
RUN pip install -r base.txt -r train.txt -c pins.txt
COPY . .
RUN pip install --no-deps --no-build-isolation --editable .
USER 10001:10001
# The worker's own health page: whether it still polls the server.
HEALTHCHECK --interval=30s --timeout=5s --start-period=5m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
CMD ["python", "-m", "infra.worker", "--pool", "gpu-8", "--type", "process", "--limit", "1", "--with-healthcheck"]
ARG COMMIT=unknown
ENV SIF_COMMIT=$COMMIT
LABEL org.opencontainers.image.title=sifthinker-train org.opencontainers.image.revision=$COMMIT

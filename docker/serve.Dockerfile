# vLLM with a merged policy, mounted at /model, for whoever asks it by hand or for `evaluate.server: http://vllm:8000/v1`.
#   docker build -f docker/serve.Dockerfile --build-arg COMMIT=$(git rev-parse HEAD) -t sifthinker-serve:0.1.0 .
# The command is that of the stages (sifthinker/models/vllm_command.py): the folder's data type, two pictures a prompt, neutral
# sampling. Only the address differs: a container's loopback is reachable from nowhere. Publish the port on the host's
# loopback only; set VLLM_API_KEY for more. Requests name the tokens that are never sampled; `evaluate` does.
# Build argument PYTHON_IMAGE: another base.

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

FROM $PYTHON_IMAGE
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 \
    NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility \
    TRITON_CACHE_DIR=/home/sif/.cache/triton TORCHINDUCTOR_CACHE_DIR=/home/sif/.cache/inductor \
    HF_HUB_OFFLINE=1 TRANSFORMERS_OFFLINE=1 VLLM_NO_USAGE_STATS=1 DO_NOT_TRACK=1
# Triton compiles its launchers (C), and vLLM kernels by torch.compile (C++), when they first run. Debian keeps only the
# latest version of a package: unpinned.
# hadolint ignore=DL3008
RUN apt-get update && apt-get install -y --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
WORKDIR /app
RUN useradd --uid 10001 --create-home sif && install -d -o sif -g sif /home/sif/.cache
COPY docker/vllm.txt ./
RUN pip install torch==2.13.0 -r vllm.txt
COPY sifthinker/models/vllm_command.py ./
USER 10001:10001
EXPOSE 8000
HEALTHCHECK --interval=15s --timeout=5s --start-period=30m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/health', timeout=4)"]
ENTRYPOINT ["python", "vllm_command.py", "/model", "--host", "0.0.0.0", "--port", "8000"]
ARG COMMIT=unknown
LABEL org.opencontainers.image.title=sifthinker-serve org.opencontainers.image.revision=$COMMIT

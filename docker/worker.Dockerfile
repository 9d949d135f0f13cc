# The Prefect server (and Kubernetes' workers), and a worker without a GPU.
#   docker build -f docker/worker.Dockerfile --target server --build-arg COMMIT=$(git rev-parse HEAD) -t sifthinker-server:0.1.0 .
#   docker build -f docker/worker.Dockerfile --target worker --build-arg COMMIT=$(git rev-parse HEAD) -t sifthinker-worker:0.1.0 .
# Build argument TORCH_INDEX_URL: an index with torch's CPU wheels (2.13.0+cpu, which pip then prefers); without it the
# worker's torch is the one for GPUs, of the same version, with several GB of CUDA.
# Build argument PYTHON_IMAGE: another base, of a mirror or by digest (docker buildx imagetools inspect IMAGE:TAG, then
# IMAGE:TAG@sha256:...).

ARG PYTHON_IMAGE=python:3.11.14-slim-bookworm

# What is to be installed, by names and versions alone. The next stages copy these files, so that a comment in
# pyproject.toml or constraints.txt rebuilds this stage and nothing after it.
FROM $PYTHON_IMAGE AS names
WORKDIR /names
COPY pyproject.toml constraints.txt docker/names.py ./
RUN python names.py

FROM $PYTHON_IMAGE AS dependencies
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 SIF_HOME=/app MPLCONFIGDIR=/home/sif/.cache/matplotlib
WORKDIR /app
# The volumes take their owner from these folders when they are first mounted.
RUN useradd --uid 10001 --create-home sif && install -d -o sif -g sif artifacts data /home/sif/.cache
COPY --from=names /names/pins.txt /names/base.txt ./
RUN pip install setuptools==84.2.1 wheel==0.48.0 -r base.txt -c pins.txt

FROM dependencies AS server
COPY --from=names /names/kubernetes.txt ./
RUN pip install -r kubernetes.txt -c pins.txt
COPY . .
RUN pip install --no-deps --no-build-isolation --editable .
USER 10001:10001
EXPOSE 4200
HEALTHCHECK --interval=10s --timeout=5s --start-period=5m --retries=6 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:4200/api/ready', timeout=4)"]
CMD ["prefect", "server", "start", "--host", "0.0.0.0"]
ARG COMMIT=unknown
ENV SIF_COMMIT=$COMMIT
LABEL org.opencontainers.image.title=sifthinker-server org.opencontainers.image.revision=$COMMIT

FROM dependencies AS worker
ARG TORCH_INDEX_URL=
RUN PIP_EXTRA_INDEX_URL=$TORCH_INDEX_URL pip install ninja==1.13.2 torch==2.13.0 -c pins.txt
COPY --from=names /names/train.txt ./
RUN DS_BUILD_OPS=0 pip install -r train.txt -c pins.txt
COPY . .
RUN pip install --no-deps --no-build-isolation --editable .
USER 10001:10001
# The worker's own health page: whether it still polls the server.
HEALTHCHECK --interval=30s --timeout=5s --start-period=5m --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
CMD ["python", "-m", "infra.worker", "--pool", "cpu", "--type", "process", "--with-healthcheck"]
ARG COMMIT=unknown
ENV SIF_COMMIT=$COMMIT
LABEL org.opencontainers.image.title=sifthinker-worker org.opencontainers.image.revision=$COMMIT

# syntax=docker/dockerfile:1.7
# The Prefect server, and a worker without a GPU.
#   docker build -f docker/worker.Dockerfile --target server -t sifthinker-server:0.1.0 .
#   docker build -f docker/worker.Dockerfile --target worker -t sifthinker-worker:0.1.0 .
# Build argument TORCH_INDEX_URL: an index with torch's CPU wheels (2.13.0+cpu, which pip then prefers); without it the
# worker's torch is the one for GPUs, of the same version, with several GB of CUDA.
# Base images are pinned by tag. By digest: docker buildx imagetools inspect IMAGE:TAG, then FROM IMAGE:TAG@sha256:...

FROM python:3.11.14-slim-bookworm AS dependencies
ENV PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_NO_CACHE_DIR=1 \
    PREFECT_SERVER_ANALYTICS_ENABLED=false DO_NOT_TRACK=1 SIF_HOME=/app
WORKDIR /app
# The volumes take their owner from these folders when they are first mounted.
RUN useradd --uid 10001 --create-home sif && install -d -o sif -g sif artifacts data /home/sif/.cache
COPY pyproject.toml constraints.txt ./
# Dependencies by their names alone, so that this layer lasts until one of them changes.
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['dependencies'], sep='\n')" > dependencies.txt \
    && pip install setuptools==84.2.1 wheel==0.48.0 -r dependencies.txt -c constraints.txt

FROM dependencies AS server
COPY . .
RUN pip install --no-deps --no-build-isolation --editable .
USER 10001:10001
EXPOSE 4200
HEALTHCHECK --interval=10s --timeout=5s --start-period=90s --retries=6 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:4200/api/health', timeout=4)"]
CMD ["prefect", "server", "start", "--host", "0.0.0.0"]

FROM dependencies AS worker
ARG TORCH_INDEX_URL=
RUN PIP_EXTRA_INDEX_URL=$TORCH_INDEX_URL pip install ninja==1.13.2 torch==2.13.0 -c constraints.txt
RUN python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['project']['optional-dependencies']['train'], sep='\n')" > train.txt \
    && DS_BUILD_OPS=0 pip install -r train.txt -c constraints.txt
COPY . .
RUN pip install --no-deps --no-build-isolation --editable .
USER 10001:10001
# The worker's own health page: whether it still polls the server.
HEALTHCHECK --interval=30s --timeout=5s --start-period=90s --retries=3 \
    CMD ["python", "-c", "import urllib.request as u; u.urlopen('http://127.0.0.1:8080/health', timeout=4)"]
CMD ["python", "-m", "infra.worker", "--pool", "cpu", "--type", "process", "--with-healthcheck"]

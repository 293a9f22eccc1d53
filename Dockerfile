# Two targets: `api`, without torch, and `worker`. Both run as nobody special and write only
# below HYPERFORGET_HOME and /tmp, so the root file system may be read-only.
#   docker build --target api -t hyperforget-api .
#   docker build --target worker -t hyperforget-worker .

FROM python:3.12-slim-bookworm AS base
ENV PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    PIP_NO_CACHE_DIR=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 \
    HYPERFORGET_HOME=/var/lib/hyperforget \
    HYPERFORGET_LOG_FORMAT=json
RUN useradd --system --uid 10001 --home-dir /var/lib/hyperforget --create-home hyperforget
WORKDIR /opt/hyperforget

FROM base AS api
COPY requirements-api.lock ./
RUN pip install --requirement requirements-api.lock
COPY pyproject.toml README.md hyperforget.py hyperforget_client.py ./
COPY app app
COPY core core
COPY models models
COPY worker worker
COPY generators generators
RUN pip install --no-deps --editable .
USER 10001
EXPOSE 8000
HEALTHCHECK --interval=10s --timeout=3s --start-period=20s --retries=3 \
    CMD ["python", "-c", "import urllib.request as r; r.urlopen('http://127.0.0.1:8000/healthz', timeout=2)"]
ENTRYPOINT ["hyperforget"]
CMD ["api"]

FROM base AS worker
# PyTorch's own index: cpu, or cu126 and the like for a GPU.
ARG TORCH_INDEX=https://download.pytorch.org/whl/cpu
COPY requirements.lock ./
RUN pip install --extra-index-url "$TORCH_INDEX" --requirement requirements.lock
COPY pyproject.toml README.md hyperforget.py hyperforget_client.py ./
COPY app app
COPY core core
COPY models models
COPY worker worker
COPY generators generators
RUN pip install --no-deps --editable .
USER 10001
# A worker answers no HTTP: alive is who the ledger has heard of lately.
HEALTHCHECK --interval=15s --timeout=10s --start-period=60s --retries=3 \
    CMD ["hyperforget", "worker-alive"]
ENTRYPOINT ["hyperforget"]
CMD ["worker"]

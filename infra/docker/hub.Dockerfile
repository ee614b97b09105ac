# The hub: Prefect, MLflow, the flows and a worker that runs them.
#   docker build -f infra/docker/hub.Dockerfile -t fedrounds-hub:0.1.0 .
# To pin the base by its digest as well: --build-arg BASE=python:3.11.13-slim-bookworm@sha256:…
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS install
COPY pyproject.toml constraints.txt README.md LICENSE /src/
COPY flows /src/flows
COPY tasks /src/tasks
COPY sites /src/sites
COPY infra /src/infra
COPY simulation /src/simulation
RUN python -m venv /opt/fedrounds-hub && \
    /opt/fedrounds-hub/bin/pip install --no-cache-dir --constraint /src/constraints.txt '/src[hub]'

FROM ${BASE}
LABEL org.opencontainers.image.title="fedrounds-hub" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=install /opt/fedrounds-hub /opt/fedrounds-hub
COPY infra/docker/hub.sh /usr/local/bin/fedrounds-hub
RUN useradd --uid 10002 --user-group --no-create-home --shell /usr/sbin/nologin fedrounds && \
    install -d -o 10002 -g 10002 -m 0700 /hub
ENV PATH=/opt/fedrounds-hub/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 HOME=/tmp \
    DO_NOT_TRACK=true MLFLOW_DISABLE_TELEMETRY=true PREFECT_SERVER_ANALYTICS_ENABLED=false
VOLUME ["/hub"]
WORKDIR /hub
USER 10002:10002
ENTRYPOINT ["sh", "/usr/local/bin/fedrounds-hub"]

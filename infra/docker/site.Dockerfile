# The agent of a site. Built from a signed bundle (`make bundle`), without any network and without the hub's half:
#   mkdir context && tar xf fedrounds-site-0.1.0-python3.11-linux-x86_64.tar -C context --strip-components 1
#   cp fedrounds-release.pem context/
#   docker build -f infra/docker/site.Dockerfile -t fedrounds-site context
# The bundle's Python and the base's are the same minor version. To pin the base by its digest as well:
#   --build-arg BASE=python:3.11.13-slim-bookworm@sha256:…
ARG BASE=python:3.11.13-slim-bookworm

FROM ${BASE} AS install
COPY . /bundle/
# install.sh refuses a folder with a file that was not signed: the key lies elsewhere
RUN mv /bundle/fedrounds-release.pem /release.pem && \
    sh /bundle/install.sh --key /release.pem --root /opt/fedrounds

FROM ${BASE}
LABEL org.opencontainers.image.title="fedrounds-site" org.opencontainers.image.licenses="Apache-2.0"
COPY --from=install /opt/fedrounds /opt/fedrounds
RUN useradd --uid 10001 --user-group --no-create-home --shell /usr/sbin/nologin fedrounds-site && \
    install -d -o 10001 -g 10001 -m 0700 /state
ENV PATH=/opt/fedrounds/current/bin:$PATH \
    PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 \
    AWS_EC2_METADATA_DISABLED=true DO_NOT_TRACK=true HOME=/tmp
# The root file system may be read-only: the agent writes to /state and /tmp alone. No port is exposed.
VOLUME ["/state"]
WORKDIR /state
USER 10001:10001
ENTRYPOINT ["/opt/fedrounds/current/bin/fedrounds-site"]
CMD ["start", "--config", "/config/site.yaml"]

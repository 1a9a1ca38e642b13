# syntax=docker/dockerfile:1
# Webserver, daemon, code location and run pods: Dagster and this project, without torch. From the project's root:
#   docker build -f deploy/images/orchestrator.Dockerfile -t REGISTRY/ft-assets/orchestrator:VERSION .
# Pin the base by digest with --build-arg BASE=python:3.12-slim-bookworm@sha256:... (`docker buildx imagetools inspect` tells it).
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS build
# What goes to pip as it is: another index, say. A proxy's password belongs in a build secret, not here.
ARG PIP_ARGS=""
ARG EXTRAS=postgres,s3,signing
WORKDIR /project
RUN python -m venv /opt/ft
COPY pyproject.toml README.md constraints.txt definitions.py ./
COPY ft_assets ft_assets
COPY resources resources
RUN /opt/ft/bin/pip install --no-cache-dir --no-compile ${PIP_ARGS} -c constraints.txt ".[${EXTRAS}]"
RUN /opt/ft/bin/pip check && ! /opt/ft/bin/pip show --quiet torch

FROM ${BASE}
RUN groupadd --gid 1000 ft && useradd --uid 1000 --gid 1000 --create-home --home-dir /home/ft ft \
 && mkdir -p /opt/dagster/home && chown ft:ft /opt/dagster/home
COPY --from=build /opt/ft /opt/ft
ENV PATH=/opt/ft/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 DAGSTER_HOME=/opt/dagster/home \
    MPLCONFIGDIR=/tmp/matplotlib HF_HOME=/tmp/huggingface
WORKDIR /home/ft
USER 1000:1000
CMD ["dagster", "code-server", "start", "-h", "0.0.0.0", "-p", "3030", "-m", "definitions"]

# syntax=docker/dockerfile:1
# The pods that train, merge, quantize and evaluate: torch with CUDA, DeepSpeed, TRL. From the project's root:
#   docker build -f deploy/images/worker.Dockerfile -t REGISTRY/ft-assets/worker:VERSION .
# torch's wheels bring CUDA's libraries; the compiler that DeepSpeed and Triton call at run time comes from the base.
# Pin it by digest with --build-arg BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04@sha256:... (`docker buildx imagetools inspect`).
ARG BASE=nvidia/cuda:13.0.1-devel-ubuntu24.04

FROM ${BASE} AS build
ARG PIP_ARGS=""
ARG EXTRAS=worker,s3,hub
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-venv python3-dev && rm -rf /var/lib/apt/lists/*
WORKDIR /project
RUN python3 -m venv /opt/ft
COPY constraints.txt ./
# Alone in a layer: it is the largest by far, and changes least.
RUN /opt/ft/bin/pip install --no-cache-dir --no-compile ${PIP_ARGS} -c constraints.txt torch
COPY pyproject.toml README.md definitions.py ./
COPY ft_assets ft_assets
COPY resources resources
RUN /opt/ft/bin/pip install --no-cache-dir --no-compile ${PIP_ARGS} -c constraints.txt ".[${EXTRAS}]"
# DeepSpeed compiles only with the CUDA that torch was built for.
RUN /opt/ft/bin/pip check \
 && built=$(/opt/ft/bin/python -c "import torch; print((torch.version.cuda or 'none').split('.')[0])") \
 && { /usr/local/cuda/bin/nvcc --version | grep -q "release $built\." || { echo "torch wants CUDA $built: give another BASE, or another index in PIP_ARGS"; exit 1; }; }

FROM ${BASE}
# Headers and a host compiler: DeepSpeed's CPU optimizer for offloading, and Triton's kernels, are compiled on first use.
RUN apt-get update && apt-get install -y --no-install-recommends python3 python3-dev g++ ninja-build && rm -rf /var/lib/apt/lists/* \
 && (userdel --remove ubuntu 2>/dev/null || true) \
 && groupadd --gid 1000 ft && useradd --uid 1000 --gid 1000 --create-home --home-dir /home/ft ft
COPY --from=build /opt/ft /opt/ft
ENV PATH=/opt/ft/bin:$PATH PYTHONUNBUFFERED=1 PYTHONDONTWRITEBYTECODE=1 CUDA_HOME=/usr/local/cuda
WORKDIR /home/ft
USER 1000:1000
CMD ["python", "-c", "import torch; print(torch.__version__, torch.version.cuda, torch.cuda.is_available())"]

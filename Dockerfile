# The benchmark with every package at a pinned version and hash, for machines with an NVIDIA driver (or none: CPU).
#
#   docker build -t grounding-bench .
#   docker run --rm --gpus all -v bench-home:/home/bench/data -v "$PWD":/runs grounding-bench run \
#       --pipeline yolo-clip --split shapes-val
#
# The driver has to be one for CUDA 13. The libraries that torch uses come with torch, so this is the smallest of the
# CUDA images, which tells the driver what to lend; its CUDA is that of requirements.txt.

FROM nvidia/cuda:13.2.1-base-ubuntu24.04 AS base
ENV DEBIAN_FRONTEND=noninteractive \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    VIRTUAL_ENV=/opt/venv \
    PATH=/opt/venv/bin:$PATH
# Ubuntu 24.04's Python is 3.12. libgl1 and libglib2.0 are what ultralytics' OpenCV loads. Versions are not pinned:
# the archive keeps only the newest of each, and a pin would break the build with every security fix.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates libgl1 libglib2.0-0t64 python3 python3-venv \
    && rm -rf /var/lib/apt/lists/*

FROM base AS build
WORKDIR /source
COPY requirements.txt ./
RUN python3 -m venv "$VIRTUAL_ENV" \
    && pip install --no-cache-dir --disable-pip-version-check --require-hashes -r requirements.txt
COPY pyproject.toml README.md LICENSE bench.toml ./
COPY bench bench
COPY pipelines pipelines
COPY clipvg clipvg
RUN pip install --no-cache-dir --disable-pip-version-check --no-deps --no-build-isolation .

FROM base
LABEL org.opencontainers.image.title="grounding-bench" \
      org.opencontainers.image.description="One evaluation for visual grounding" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="Apache-2.0 AND AGPL-3.0-only"
COPY --from=build /opt/venv /opt/venv
RUN useradd --create-home --uid 10001 bench \
    && install -d -o bench -g bench /home/bench/data /runs
ENV BENCH_HOME=/home/bench/data \
    HF_HOME=/home/bench/data/huggingface \
    TORCH_HOME=/home/bench/data/torch \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 10001
WORKDIR /runs
VOLUME ["/home/bench/data"]
ENTRYPOINT ["bench"]
CMD ["doctor"]

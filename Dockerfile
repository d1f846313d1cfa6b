# mol and molkernels in a container.
#
#     docker build --tag mol .                        # for the CPU
#     docker build --tag mol:cuda --target cuda .     # for an NVIDIA GPU; run it with --gpus all
#     docker run --rm --user "$(id -u):$(id -g)" --volume "$PWD:/work" mol predict film.mp4 --weights runs/mine
#
# A first stage compiles the kernels; what runs has no compiler. The commands are those of docs/install.md.

FROM nvidia/cuda:13.0.1-devel-ubuntu24.04 AS build-cuda
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ python3-venv \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/mol \
    && /opt/mol/bin/pip install --no-cache-dir --upgrade pip "setuptools>=77" wheel \
    && /opt/mol/bin/pip install --no-cache-dir torch==2.13.0 "ninja>=1.11"
WORKDIR /src
COPY . .
# Without a CUDA toolkit this would build the CPU kernels alone; here that is an error.
RUN MOLKERNELS_CUDA=1 /opt/mol/bin/pip install --no-cache-dir --no-build-isolation ".[mol]"

FROM nvidia/cuda:13.0.1-base-ubuntu24.04 AS cuda
RUN apt-get update \
    && apt-get install --yes --no-install-recommends python3 \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 1001 --create-home --shell /bin/bash researcher
COPY --from=build-cuda /opt/mol /opt/mol
# Whoever runs it may have no home in here.
ENV PATH="/opt/mol/bin:$PATH" MPLCONFIGDIR=/tmp
USER 1001
WORKDIR /work
ENTRYPOINT ["mol"]
CMD ["--help"]

FROM python:3.12-slim-bookworm AS build-cpu
SHELL ["/bin/bash", "-euo", "pipefail", "-c"]
RUN apt-get update \
    && apt-get install --yes --no-install-recommends g++ \
    && rm -rf /var/lib/apt/lists/*
RUN python3 -m venv /opt/mol \
    && /opt/mol/bin/pip install --no-cache-dir --upgrade pip "setuptools>=77" wheel \
    && /opt/mol/bin/pip install --no-cache-dir --index-url https://download.pytorch.org/whl/cpu torch==2.13.0 \
    && /opt/mol/bin/pip install --no-cache-dir "ninja>=1.11"
WORKDIR /src
COPY . .
RUN MOLKERNELS_CUDA=0 /opt/mol/bin/pip install --no-cache-dir --no-build-isolation ".[mol]"

# The last stage is what `docker build` makes by default.
FROM python:3.12-slim-bookworm AS cpu
RUN useradd --uid 1001 --create-home --shell /bin/bash researcher
COPY --from=build-cpu /opt/mol /opt/mol
# Whoever runs it may have no home in here.
ENV PATH="/opt/mol/bin:$PATH" MPLCONFIGDIR=/tmp
USER 1001
WORKDIR /work
ENTRYPOINT ["mol"]
CMD ["--help"]

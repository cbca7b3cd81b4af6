# The pods of jobs: costopt with its extras [trainer], [hf], [onnx] and [data]. Build from the project's root:
#   docker build --file images/trainer.Dockerfile --tag costopt-trainer:0.1.0 .
# DEPENDENCIES says what is installed beside costopt:
#   cuda  torch with CUDA and NCCL of its own; the node brings the driver
#   cpu   the same torch without what only a GPU uses; 1.8 GB instead of 5.8 GB
#   none  nothing; the packages of the image's own Python are used, which a node may bring
ARG DEPENDENCIES=cuda

FROM python:3.11-slim-bookworm AS base
# torch.compile builds its kernels with a C++ compiler at run time; int8 variants are compiled.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*

# A large layer, made anew only when pyproject.toml or the programs that fill it change.
FROM base AS dependencies
ARG DEPENDENCIES
WORKDIR /source
COPY pyproject.toml ./
COPY images/dependencies.py images/cpu_torch.py images/
RUN python -m images.dependencies "$DEPENDENCIES" /opt/costopt

FROM python:3.11-slim-bookworm AS wheel
WORKDIR /source
COPY pyproject.toml README.md ./
COPY costopt costopt
COPY operator operator
COPY trainer trainer
RUN python -m pip wheel --no-cache-dir --no-deps --wheel-dir /wheel .

FROM base
COPY --from=dependencies /opt/costopt /opt/costopt
COPY --from=wheel /wheel /wheel
RUN /opt/costopt/bin/pip install --no-cache-dir --no-deps /wheel/*.whl
# The user has no entry in passwd, and in the cluster only /tmp can be written: libraries ask for a home and a name.
ENV PATH=/opt/costopt/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp USER=costopt
# Without NVIDIA_VISIBLE_DEVICES: it would hand GPUs to pods that asked for none, and that no bill counts.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
ENTRYPOINT ["python", "-E", "-P", "-u", "-m", "costopt_trainer.launch"]

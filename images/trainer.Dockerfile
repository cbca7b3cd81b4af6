# The pods of jobs: costopt with its extra [trainer], whose torch brings CUDA and NCCL of its own; the node brings the
# driver. Build from the project's root:
#   docker build --file images/trainer.Dockerfile --tag costopt-trainer:0.1.0 .
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
COPY pyproject.toml README.md ./
COPY costopt costopt
COPY operator operator
COPY trainer trainer
RUN python -m venv /opt/costopt && /opt/costopt/bin/pip install --no-cache-dir '.[trainer]'

FROM python:3.11-slim-bookworm
# torch.compile builds its kernels with a C++ compiler at run time; int8 variants are compiled.
RUN apt-get update && apt-get install --yes --no-install-recommends g++ && rm -rf /var/lib/apt/lists/*
COPY --from=build /opt/costopt /opt/costopt
# The user has no entry in passwd, and in the cluster only /tmp can be written: libraries ask for a home and a name.
ENV PATH=/opt/costopt/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1 HOME=/tmp USER=costopt
# Without NVIDIA_VISIBLE_DEVICES: it would hand GPUs to pods that asked for none, and that no bill counts.
ENV NVIDIA_DRIVER_CAPABILITIES=compute,utility
USER 65532:65532
ENTRYPOINT ["python", "-m", "costopt_trainer.launch"]

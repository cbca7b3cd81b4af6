# The pods of jobs: costopt with its extra [trainer], whose torch brings CUDA and NCCL of its own; the node brings the
# driver. Build from the project's root:
#   docker build --file images/trainer.Dockerfile --tag costopt-trainer:0.1.0 .
FROM python:3.11-slim-bookworm AS build
ARG DEPENDENCIES=all
WORKDIR /source
# What costopt depends on comes first, with empty packages in the place of ours: a layer that our own changes leave alone.
# DEPENDENCIES=none leaves it out: the packages of the image's own Python (/usr/local/lib/python3.11/dist-packages) are
# then used, which a node may bring.
COPY pyproject.toml README.md ./
RUN mkdir -p costopt operator/costopt_operator trainer/costopt_trainer && \
    touch costopt/__init__.py operator/costopt_operator/__init__.py trainer/costopt_trainer/__init__.py && \
    if [ "$DEPENDENCIES" = none ]; then python -m venv --system-site-packages /opt/costopt && \
    /opt/costopt/bin/pip install --no-cache-dir hatchling; else python -m venv /opt/costopt && \
    /opt/costopt/bin/pip install --no-cache-dir '.[trainer]'; fi
COPY costopt costopt
COPY operator operator
COPY trainer trainer
RUN /opt/costopt/bin/pip install --no-cache-dir --no-deps --force-reinstall .

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

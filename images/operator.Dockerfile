# The operator: costopt with its extra [operator], and no torch. Build from the project's root:
#   docker build --file images/operator.Dockerfile --tag costopt-operator:0.1.0 .
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
# What costopt depends on comes first, with empty packages in the place of ours: a layer that our own changes leave alone.
COPY pyproject.toml README.md ./
RUN mkdir -p costopt operator/costopt_operator trainer/costopt_trainer && \
    touch costopt/__init__.py operator/costopt_operator/__init__.py trainer/costopt_trainer/__init__.py && \
    python -m venv /opt/costopt && /opt/costopt/bin/pip install --no-cache-dir '.[operator]'
# The wheel holds all three packages; which of them can be imported is a question of what is installed beside it.
COPY costopt costopt
COPY operator operator
COPY trainer trainer
RUN /opt/costopt/bin/pip install --no-cache-dir --no-deps --force-reinstall .

FROM python:3.11-slim-bookworm
COPY --from=build /opt/costopt /opt/costopt
# The user has no entry in passwd and no home; the program needs neither.
# The root file system is read-only in the cluster: no bytecode is written, and every line of the log is seen at once.
# The user has no entry in passwd: libraries ask for a home and a name.
ENV PATH=/opt/costopt/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["costopt-operator"]
CMD ["run"]

# The operator: costopt with its extra [operator], and no torch. Build from the project's root:
#   docker build --file images/operator.Dockerfile --tag costopt-operator:0.1.0 .
FROM python:3.11-slim-bookworm AS build
WORKDIR /source
# The wheel holds all three packages; which of them can be imported is a question of what is installed beside it.
COPY pyproject.toml README.md ./
COPY costopt costopt
COPY operator operator
COPY trainer trainer
RUN python -m venv /opt/costopt && /opt/costopt/bin/pip install --no-cache-dir '.[operator]'

FROM python:3.11-slim-bookworm
COPY --from=build /opt/costopt /opt/costopt
# The user has no entry in passwd and no home; the program needs neither.
# The root file system is read-only in the cluster: no bytecode is written, and every line of the log is seen at once.
ENV PATH=/opt/costopt/bin:$PATH PYTHONDONTWRITEBYTECODE=1 PYTHONUNBUFFERED=1
USER 65532:65532
EXPOSE 8080
ENTRYPOINT ["costopt-operator"]
CMD ["run"]

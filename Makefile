# Everything a developer types. `make` alone lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-slow test-buckets test-cluster cluster-binaries binaries-ahead control-plane e2e e2e-cluster e2e-pieces \
	browser images lint format generate bench bench-train bench-data bench-lean bench-operator bench-compress fuzz clean
# Each test belongs to one of test, test-slow, test-buckets, test-cluster and e2e; tests/house/test_targets.py holds them to it.
# One thread each: those of two workers and of what they start would wait for one another most of the time.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --durations=10
IN_TWO := --numprocesses=2 --dist=worksteal
HERE := --ignore=tests/buckets --ignore=tests/cluster --ignore=tests/e2e tests
BUCKETS := .cache/buckets

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(STAMP) ## Make .venv and install costopt with everything it needs

$(STAMP): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "costopt needs Python 3.11 or newer; set PYTHON=")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[operator,trainer,hf,lightning,onnx,dev]'
	touch $@

quickstart: $(STAMP) ## Train a small GPT on two ranks, compress it, and print what it cost (3 to 5 minutes)
	$(BIN)/costopt run manifests/samples/quickstart.yaml

test: $(STAMP) ## Run the tests that need no cluster and little time (a quarter of an hour on 2 cores)
	$(PYTEST) $(IN_TWO) -m 'not slow' $(HERE)

test-slow: $(STAMP) ## Run the longer ones: whole trainings, compilers, more random histories
	$(PYTEST) $(IN_TWO) -m slow $(HERE)

test-buckets: $(BUCKETS) ## Run the tests of data in S3, on a server of its API that is installed here; of Google's where one is
	PYTHONPATH=$(BUCKETS) $(PYTEST) tests/buckets

# In a folder of its own: the AWS library and the client of Kubernetes want different versions of python-dateutil, of
# which pip warns, though here the two never meet.
$(BUCKETS): $(STAMP)
	mkdir -p $(dir $@) && rm -rf $@.part
	$(BIN)/python -m pip install --quiet --no-compile --target $@.part s3fs 'moto[s3]' flask flask-cors 2>$(BUCKETS).log || \
	{ cat $(BUCKETS).log; exit 1; }
	rm -rf $@ && mv $@.part $@

fuzz: $(STAMP) ## Hold more random histories against the oracle of tests/oracle (SEEDS=2000, about half an hour on two cores)
	COSTOPT_FUZZ_SEEDS=$${SEEDS:-2000} $(BIN)/python -m pytest --numprocesses=2 --dist=worksteal tests/oracle

test-cluster: cluster-binaries ## Run the tests that need a Kubernetes control plane, on a real one started here
	$(PYTEST) $(IN_TWO) $(if $(E2E_FOLLOWS),--ignore=tests/cluster/test_docs.py) tests/cluster

cluster-binaries: $(STAMP) ## Build that control plane's programs once (Go; about 10 minutes); nothing if they are there
	PYTHONPATH=tests $(BIN)/python -m cluster.build

binaries-ahead: ## Begin to build them before anything is installed, as CI does; `cluster-binaries` waits for it
	PYTHONPATH=tests $(PYTHON) -m cluster.build

control-plane: cluster-binaries ## Start a control plane, say how to use it, and keep it until Ctrl-C
	PYTHONPATH=tests $(BIN)/python -m cluster.control_plane

browser: ## Install Chromium, which tests of pages look through (Debian, root); nothing if it is there
	@command -v chromium >/dev/null || { apt-get update --quiet=2 && DEBIAN_FRONTEND=noninteractive \
	apt-get install --quiet=2 --yes --no-install-recommends chromium; }

e2e: $(STAMP) ## Run the end-to-end tests on a real node that is made here (Linux, root; pieces are built once)
	@test -n "$$COSTOPT_TEST_KUBECONFIG" || $(MAKE) e2e-pieces
	@if [ -n "$$COSTOPT_TEST_KUBECONFIG" ]; then exec env $(PYTEST) --timeout=900 tests/e2e; \
	else exec env PYTHONPATH=tests $(BIN)/python -m e2e.enter env $(PYTEST) --timeout=900 tests/e2e; fi

e2e-cluster: e2e-pieces ## Start that node, say how to use it, and keep it until Ctrl-C
	PYTHONPATH=tests $(BIN)/python -m e2e.enter $(BIN)/python -m e2e.real_cluster

e2e-pieces: $(STAMP) ## Build what that node needs, where it is missing (Linux, root)
	@test "$$(uname)/$$(id -u)" = Linux/0 || { echo "a real node needs Linux and root, for its namespaces, mounts and \
	control groups; or name a cluster in COSTOPT_TEST_KUBECONFIG" >&2; exit 2; }
	tests/e2e/packages.sh
	PYTHONPATH=tests $(BIN)/python -m e2e.images

images: e2e-pieces ## Build the operator's and the trainer's images with buildah, as their Dockerfiles stand (root; slow)
	PYTHONPATH=tests $(BIN)/python -m e2e.images full-trainer

lint: $(STAMP) ## Check style, types, import contracts, and that generated files are up to date
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) generate
	git diff --exit-code -- manifests/crds manifests/install docs/reference.md charts/costopt

format: $(STAMP) ## Format the code and mend what can be mended mechanically
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

generate: $(STAMP) ## Write the CRDs, docs/reference.md and what the chart derives from its values
	$(BIN)/python -m costopt.cli.generate
	$(BIN)/python -m charts.generator

bench: $(STAMP) ## Measure against a peer in the same run; figures are in benchmarks/README.md
	@for program in benchmarks/*.py; do echo "== $$program"; PYTHONPATH=.:operator:tests $(BIN)/python $$program || exit 1; done

bench-train: $(STAMP) ## Measure the trainer against its peers, its layouts against each other, and what restarts cost
	@for program in train_peers nano_gpt parallel_memory checkpoint_stall step_memory restart_times; do \
	echo "== $$program"; PYTHONPATH=.:trainer:tests $(BIN)/python benchmarks/$$program.py || exit 1; done

bench-data: $(STAMP) ## Measure loader and tokenizing against their peers, and what zstd of tokens would cost (needs the extra bench)
	@for program in loader tokenizing zstd_tokens; do \
	echo "== $$program"; PYTHONPATH=.:trainer $(BIN)/python benchmarks/$$program.py || exit 1; done

bench-lean: $(STAMP) ## The same model to the same loss, with and without cleaning, a rate that follows the loss and an early stop
	PYTHONPATH=.:trainer $(BIN)/python benchmarks/lean.py

bench-compress: $(STAMP) ## Measure variants against FP32, and against onnxruntime and torch-pruning used by hand
	@for program in compress_int8 prune distill auto minilm decoding; do \
	echo "== $$program"; PYTHONPATH=.:trainer:tests $(BIN)/python benchmarks/$$program.py || exit 1; done

bench-operator: cluster-binaries ## Measure the operator on a control plane started here (about 20 minutes)
	PYTHONPATH=.:operator:tests:benchmarks $(BIN)/python -m operator_load

clean: ## Remove what quickstart and the caches left; .venv and what the tests have built stays
	rm -rf runs .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	test ! -d .cache || find .cache -mindepth 1 -maxdepth 1 ! -name cluster ! -name e2e -exec rm -rf {} +

# The single list of verbs; .ci/run and people call the same ones.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
UV_VERSION := 0.13.9
LOCK := requirements/all.txt
STAMP := $(VENV)/.installed

.PHONY: setup demo test lint types bench soak compose-test lock lock-parts clean
.DELETE_ON_ERROR:

# Set on some machines, it makes each of the hundreds of processes that the tests start compile the project anew.
unexport PYTHONDONTWRITEBYTECODE

setup: $(STAMP)

$(STAMP): $(LOCK) pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed; this one is %d.%d. Set PYTHON=python3.11" % sys.version_info[:2] if sys.version_info < (3, 11) else 0)'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@echo "installing pinned packages into $(VENV) (about 5 GB the first time, torch above all)"
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip sync --quiet --require-hashes --compile-bytecode $(LOCK)
	@VIRTUAL_ENV=$(VENV) $(BIN)/uv pip install --quiet --no-deps --editable .
	@touch $@

demo: setup
	@$(BIN)/python examples/demo.py

# Whole files go to one of the workers, so that what a file sets up once is set up once. Few: a worker holds torch, and so
# do the servers and clients that the end-to-end tests start. Some tests wait, which the third is for.
TEST_WORKERS ?= 3
test: lint types
	$(BIN)/pytest -m "not soak" --numprocesses $(TEST_WORKERS) --dist loadfile --no-loadscope-reorder

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/deptry .

types: setup
	$(BIN)/mypy

bench: setup
	$(BIN)/python benchmarks/labelling.py
	$(BIN)/python -m benchmarks.charges

# SOAK_KILLS (500) kills of each kind on each database; figures go to runs/soak.json, cited in docs/reliability.md.
soak: setup
	$(BIN)/pytest -m soak --timeout 3600

# The real docker-compose.yml on a real engine, from nothing; exit status 75 (from the script) means that none can be had.
compose-test:
	@docker/compose-test

# One lock for development, and parts of it for the images: what they take is what the tests ran with. torch comes in a
# file of its own with all it needs, CUDA above all; the others leave out torch and CUDA, so that a CPU-only torch fits too.
COMPILE := $(BIN)/uv pip compile --universal --python-version 3.11 --generate-hashes --no-header --quiet
CUDA = $(shell sed -nE 's/^((nvidia|cuda|triton)[a-z0-9-]*)==.*/\1/p' $(LOCK))
PART = $(COMPILE) --constraints $(LOCK) --no-annotate
BESIDE_TORCH = $(foreach package,torch torchvision $(CUDA),--no-emit-package $(package))
lock:
	@$(COMPILE) pyproject.toml --extra dev --output-file $(LOCK)
	@$(MAKE) --no-print-directory lock-parts

lock-parts:
	@printf 'torch\ntorchvision\n' | $(PART) --output-file requirements/torch.txt -
	@$(PART) $(BESIDE_TORCH) pyproject.toml --extra server --extra digits --extra onnx --output-file requirements/server.txt
	@$(PART) $(BESIDE_TORCH) pyproject.toml --extra client --extra digits --output-file requirements/client.txt
	@echo hatchling | $(PART) --output-file requirements/build.txt -

clean:
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache

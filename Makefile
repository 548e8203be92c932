# Commands of soft-labels-repro. `make` alone lists them.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
JOBS ?= 2
# Three, since some of them wait for a server or a signal; more threads in each would only get in each other's way.
TESTS ?= 3
# Seconds between two lines of `make setup` while pip says nothing.
BEAT ?= 5
PYTEST := $(BIN)/python -m pytest -n $(TESTS) --dist loadfile

.DEFAULT_GOAL := help
.PHONY: help setup demo docs test test-slow test-slurm test-cuda test-lowest test-pythons lint type check format clean

help: ## list these commands
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sort | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

setup: $(READY) ## make the environment .venv, once; later calls reuse it

# pip unpacks packages of gigabytes in silence and, where its output is no terminal, downloads them so, too.
define HEARTBEAT
began=$$(date +%s); before=; \
while sleep $(BEAT) > /dev/null && kill -0 $$$$; do \
    now=$$(du -sm $(VENV) | cut -f 1); \
    if [ ! -t 1 ] || [ "$$now" != "$$before" ]; then \
        echo "still installing after $$(($$(date +%s) - began)) s: $$(ls -d $(VENV)/lib/*/site-packages/*.dist-info | wc -l) packages, $$now MB in $(VENV)"; \
    fi; \
    before=$$now; \
done 2> /dev/null & \
beat=$$!; trap "kill $$beat" EXIT;
endef

# requirements.lock pins every version; as constraints it also serves systems that need fewer packages.
$(READY): pyproject.toml requirements.lock
	@echo "Making $(VENV): 3.2 GB are downloaded, most of them PyTorch for CUDA; README.md says how to do with less."
	@$(HEARTBEAT) set -e; \
	test -d $(VENV) || $(PYTHON) -m venv $(VENV); \
	$(BIN)/python -m pip install --upgrade pip; \
	$(BIN)/python -m pip install --constraint requirements.lock --editable '.[dev]'
	@touch $(READY)

demo: $(READY) ## learn labels on real digits and print the table: minutes on two cores, no GPU, no account
	$(BIN)/python -m sweeps run demo demo_curves demo_labels --jobs $(JOBS)
	$(BIN)/python -m analysis tables demo
	$(BIN)/python -m analysis figures demo_curves demo_labels

docs: $(READY) ## build the site of guides and API reference, docs/_build/docs/index.html, without a network
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet --conf-dir docs . docs/_build

test: $(READY) ## run the whole test suite
	$(PYTEST) -m "not slow and not slurm"

test-slow: $(READY) ## run the tests that take minutes
	$(PYTEST) -m slow

# File by file, so that each process starts one SLURM at a time.
test-slurm: $(READY) ## run the tests on a real SLURM that they start here: some 10 minutes
	$(BIN)/python -m pytest -n $(JOBS) -m slurm --dist loadfile tests/integration/slurm

# On a CUDA GPU, or where REPRO_NULL_CUDA names the folder of a CUDA driver that does nothing, on that.
ifdef REPRO_NULL_CUDA
CUDA = LD_PRELOAD="$(REPRO_NULL_CUDA)/libnvrtc.so.13 $(REPRO_NULL_CUDA)/libcuda.so.1" LD_LIBRARY_PATH="$(REPRO_NULL_CUDA)"
endif
test-cuda: $(READY) ## run the tests that need CUDA: on a GPU, or on the driver in REPRO_NULL_CUDA
	$(CUDA) $(BIN)/python -m pytest -n 0 tests/cuda

# pip says so where a bound NAME>=X of pyproject.toml cannot be kept as NAME==X. Warnings of old packages are no errors.
LOWEST := .venvs/lowest
test-lowest: ## run the test suite with the lowest versions that pyproject.toml allows, on Python 3.11
	python3.11 -m venv $(LOWEST)
	grep -oE '[A-Za-z0-9_-]+>=[0-9.]+' pyproject.toml | sed 's/>=/==/' > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --constraint $(LOWEST)/constraints.txt --editable '.[dev,bench]'
	$(LOWEST)/bin/python -m pytest -n $(TESTS) --dist loadfile -m "not slow and not slurm" -W default

PYTHONS := 3.11 3.12 3.13 3.14
test-pythons: ## run the test suite on every Python from 3.11 to 3.14 that is installed
	@for version in $(PYTHONS); do \
	    python$$version -c '' 2> /dev/null || { echo "python$$version is not installed"; continue; }; \
	    $(MAKE) test VENV=.venvs/$$version PYTHON=python$$version || failed="$$failed $$version"; \
	done; test -z "$$failed" || { echo "failed on$$failed"; exit 1; }

lint: $(READY) ## check style and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

type: $(READY) ## check types
	$(BIN)/mypy

check: lint type test ## everything that a change must pass

format: $(READY) ## put the code into its format
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## delete environments and caches; runs and data stay
	rm -rf $(VENV) .venvs .mypy_cache .ruff_cache .pytest_cache .import_linter_cache *.egg-info docs/_build docs/api

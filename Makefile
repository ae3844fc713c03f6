# Everything here needs Python 3.11 or newer and make. The first target that runs sets up .venv.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-stamp
PIP := $(BIN)/pip install --quiet --quiet --no-deps --no-compile
# Two test processes beside each other; the tests of a file share what they start.
BESIDE := --numprocesses 2 --dist loadfile
TORCH := torch==2.13.0+cpu
# Where PyTorch publishes its CPU builds; asked only if pip's own configuration has none.
TORCH_INDEX := https://download.pytorch.org/whl/cpu

export DAGSTER_DISABLE_TELEMETRY := yes
export RAY_USAGE_STATS_ENABLED := 0

.PHONY: help setup demo dev test test-ui screenshots lint format bench chaos lock clean

help:  ## say what can be made
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 13

setup: $(STAMP)  ## create .venv with everything pinned

$(STAMP): requirements/lock.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) "$(TORCH)" 2>/dev/null || $(PIP) --index-url $(TORCH_INDEX) "$(TORCH)"
	@# pip unpacks on one core.
	xargs -d '\n' -P 2 -n 30 $(PIP) < requirements/lock.txt
	$(PIP) --no-build-isolation -e .
	@# What pip does on one core; a few files of the packages are for other versions of Python.
	$(BIN)/python -m compileall -qq -j 0 -x '/tests/' $(VENV)/lib || true
	@touch $@

demo: setup  ## land three days of data, run every job on them, read the tables with SQL
	$(BIN)/overnight demo

dev: setup  ## the Dagster UI on http://127.0.0.1:3000, warm engines, the warehouse up
	$(BIN)/overnight dev

test: setup  ## run the tests
	$(BIN)/python -m pytest $(BESIDE)

test-ui: setup  ## the tests of the UI, in the Chromium that is found (OVERNIGHT_BROWSER names another)
	$(BIN)/python -m pytest tests/ui

screenshots: test-ui  ## take the README's pictures anew
	mkdir -p docs/images
	cd test-artifacts && cp asset-graph.png metadata.png failing-check.png ../docs/images/

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy --num-workers 2

format: setup  ## let ruff put the code in order
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: setup  ## measure, side by side with the peers
	$(BIN)/python -m tests.benchmarks

chaos: setup  ## the full kill sweeps
	$(BIN)/python -m pytest $(BESIDE) -m sweep --override-ini timeout=3600

lock:  ## resolve requirements/lock.txt and lock-gpu.txt anew (needs uv)
	uv pip compile pyproject.toml --extra cpu --extra demo --group dev --override requirements/overrides.txt \
	  --python-version 3.11 --no-emit-package torch --no-annotate --no-header \
	  --output-file requirements/lock.txt
	uv pip compile pyproject.toml --extra gpu --extra demo --override requirements/overrides.txt \
	  --python-version 3.11 --no-annotate --no-header --output-file requirements/lock-gpu.txt

clean:  ## remove the virtual environment and all local state
	rm -rf $(VENV) .overnight .night .pytest_cache .mypy_cache .ruff_cache .hypothesis test-artifacts

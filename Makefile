# Each target works from a fresh clone: it makes .venv when there is none, or when what it is made of has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Models here are small: more threads than this cost more in waiting than they give.
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM := false

.PHONY: help demo test test-fast test-verl check format clean
help:           ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("vbon needs Python 3.11 or newer; try: make PYTHON=python3.12 test" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## the whole story offline, at most 5 minutes on two cores; ends with a table and runs/demo/report.html
	$(BIN)/vbon demo

test: $(STAMP)  ## unit, learning and recipe tests
	$(BIN)/python -m pytest

test-fast: $(STAMP)  ## unit tests only
	$(BIN)/python -m pytest -m "not learning and not recipes and not gpu"

test-verl:      ## contracts with verl and OpenRLHF, in .venv-verl: verl pins another transformers
	test -x .venv-verl/bin/python || $(PYTHON) -m venv .venv-verl
	.venv-verl/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 verl==0.9.1 pytest pytest-timeout hypothesis -e .
	.venv-verl/bin/python -m pip install --quiet --disable-pip-version-check --no-deps openrlhf==0.11.2
	.venv-verl/bin/python -m pytest tests/integrations/test_verl.py tests/integrations/test_openrlhf.py

check: $(STAMP) ## lint, format, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## rewrite the code as `make check` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:          ## remove the virtual environment and caches; runs/ stays
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache

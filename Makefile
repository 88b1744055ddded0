PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A CPU build where the package index offers one; any 2.6 to 2.x does.
TORCH ?= torch==2.13.0
# One more than there are cores: many tests wait for a server.
WORKERS ?= $(shell $(PYTHON) -c "import os; print((os.cpu_count() or 1) + 1)")

.PHONY: demo test lint pytest install install-dev bench clean

demo: install  ## build a catalogue from real pictures and search it
	$(BIN)/lookalike demo --out demo

test: install-dev  ## everything CI runs
	$(MAKE) --jobs 2 lint pytest  # types are looked at while tests wait for servers

pytest: install-dev
	$(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install-dev  ## print the tables of docs/benchmarks.md
	$(BIN)/python benchmarks/startup.py
	$(BIN)/python benchmarks/encoder.py
	$(BIN)/python benchmarks/store.py
	$(BIN)/python benchmarks/search.py
	$(BIN)/python benchmarks/indexing.py
	$(BIN)/python benchmarks/serve.py

install: $(VENV)/.installed
install-dev: $(VENV)/.installed-dev

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -e .
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install --quiet --disable-pip-version-check $(TORCH)
	$(BIN)/pip install --quiet --disable-pip-version-check -e '.[dev,hub,export,parquet,objects,heic,report,geometric,train,captions,serve,ray,milvus]'
	$(BIN)/lookalike models pull minilm  # compact's text tower
	touch $@

clean:
	rm -rf $(VENV) demo dist build

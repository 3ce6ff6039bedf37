# Each target makes .venv if there is none, installs what it needs, and runs.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PEERS := .venv-peers
JOBS ?= 2

.PHONY: quickstart test test-slow lint types format peers clean

quickstart: $(VENV)/experiments.stamp
	$(BIN)/python -m experiments compare paper_configs/quickstart.toml

test: $(VENV)/test.stamp
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q

test-slow: $(VENV)/dev.stamp
	$(BIN)/python -m pytest -n $(JOBS) --dist worksteal -q -m slow

lint: $(VENV)/dev.stamp
	$(BIN)/ruff check . && $(BIN)/ruff format --check .

types: $(VENV)/dev.stamp
	$(BIN)/pyright --pythonpath $(BIN)/python

format: $(VENV)/dev.stamp
	$(BIN)/ruff check --fix . && $(BIN)/ruff format .

# The libraries that benchmarks are measured against, in an environment of their own.
peers: $(PEERS)/peers.stamp

clean:
	rm -rf $(VENV) $(PEERS) build dist

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "hypergrad needs Python 3.11 or newer: make PYTHON=python3.12 ..."; exit 2; }
	$(PYTHON) -m venv $(VENV)

# One stamp an extra: pip runs again only when pyproject.toml has changed.
$(VENV)/%.stamp: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable ".[$*]"
	@touch $@

$(PEERS)/peers.stamp: benchmarks/peers/requirements.txt
	$(PYTHON) -m venv $(PEERS)
	@echo '*' > $(PEERS)/.gitignore
	$(PEERS)/bin/python -m pip install --quiet --requirement $<
	@touch $@

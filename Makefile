# What a contributor runs, and what CI runs: the same commands. `make` alone lists them.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PROMPT ?=
MINUTES ?= 10
# Processes that run tests side by side; each may start sidecars and workers of its own.
JOBS ?= 2
PLATFORMS := linux darwin win32

.PHONY: help setup chat test lint types unit rust weights bench clean

help:
	@echo "make chat PROMPT=\"...\"  set all up and answer one prompt; without PROMPT, an interactive chat"
	@echo "make test               set all up, check style and types, run all tests"
	@echo "make lint               style, types, import direction"
	@echo "make unit               the tests alone"
	@echo "make rust               build and test the Rust host"
	@echo "make soak MINUTES=n     explore fresh seeds of the simulation"
	@echo "make bench              measure against the peers and write bench/RESULTS.md"
	@echo "make clean              remove what was set up (not the model store)"

# The environment is made anew when what it is made from changes. torch comes first and by its exact version: where the
# package index has a CPU build of it, that is what is taken, and nothing later replaces it.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; assert sys.version_info >= (3, 11), "mlzoo needs Python 3.11 or newer: make PYTHON=python3.12 ..."'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing torch and what else is needed: once, some minutes."
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[local,fit,dev]'
	touch $@

# Compiled once, a start takes half as long.
setup: $(VENV)/.ready
	@$(BIN)/python -m compileall -q mlzoo

# The prompt is text, never shell code.
chat: setup
	@$(BIN)/mlzoo chat $(if $(value PROMPT),-- '$(subst ','\'',$(value PROMPT))',)

weights: setup
	$(BIN)/mlzoo models pull smollm2
	$(BIN)/mlzoo models pull minilm

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports

# Each platform has a cache of its own: in one, they would take each other's place.
types: setup
	$(MAKE) --no-print-directory --jobs=$(JOBS) $(PLATFORMS:%=types-%)

types-%:
	$(BIN)/mypy --platform $* --cache-dir .mypy_cache/$*

unit: setup weights
	$(BIN)/pytest --numprocesses=$(JOBS) --dist=worksteal

# Says so where there is no cargo, and goes on.
rust: setup weights
	@hosts/rust/check

test: lint types unit rust

# Seeds that nobody has tried: prints them, what was explored, and how a failure is told again.
soak: setup
	$(BIN)/python -m mlzoo.simulation --minutes $(MINUTES)

bench: setup weights
	$(BIN)/python bench/run.py

clean:
	rm -rf $(VENV) bench/.peers bench/.build hosts/rust/target .mypy_cache .ruff_cache .pytest_cache .hypothesis

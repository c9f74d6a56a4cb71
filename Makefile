# make demo   search a synthetic set exactly on local workers; truth and pictures under demo/
# make test   the test suite (needs nothing but Python 3.11+, make and a package index)
PYTHON ?= python3
BIN := .venv/bin

# Tests mostly wait: for processes to start, for Slurm. Two at once take little more than half as
# long; more would take memory, a GiB each. Which stay together: tests/conftest.py.
AT_ONCE ?= 2
PYTEST := $(BIN)/python -m pytest -q -n $(AT_ONCE) --dist loadscope --no-loadscope-reorder

.PHONY: help demo test test-slow test-all lint types format clean

help:
	@echo "make demo      run the main job on an embedded set; leaves ground truth and pictures in demo/"
	@echo "make test      run the test suite, two tests at a time (AT_ONCE=1: one)"
	@echo "make test-all  the same and what is slower"
	@echo "make lint      style and formatting;  make types  static types;  make format  mend formatting"
	@echo "make clean     remove .venv, demo/ and caches"

demo: .venv/.runtime
	@echo "Searching a synthetic set exactly on local worker processes …"
	@$(BIN)/haag-vq demo --out demo

test: .venv/.dev
	$(PYTEST)

test-slow: .venv/.dev
	$(PYTEST) -m slow

test-all: .venv/.dev
	$(PYTEST) -m "slow or not slow"

lint: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev
	$(BIN)/mypy

format: .venv/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

.venv/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed, $(PYTHON) is $$($(PYTHON) --version). Say which: make PYTHON=python3.12 …"; exit 1; }
	@echo "Making .venv with $$($(PYTHON) --version) …"
	@$(PYTHON) -m venv .venv || \
	  { rm -rf .venv; echo "python -m venv failed; on Debian and Ubuntu: apt install python3-venv"; exit 1; }

.venv/.runtime: .venv/bin/pip pyproject.toml
	@echo "Installing haag_vq and what it needs into .venv (a minute or two) …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable .
	@touch $@

.venv/.dev: .venv/.runtime pyproject.toml
	@echo "Installing the test tools into .venv …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev,bench]'
	@touch $@

clean:
	rm -rf .venv demo .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

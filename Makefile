# `make demo` and `make test` set up everything they need; a second run installs nothing again.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# Tests start Ray clusters of their own on this machine; no token is needed among them.
TEST_ENV := RAY_AUTH_MODE=disabled RAY_USAGE_STATS_ENABLED=0

# Two quick tests at a time; those that share a cluster or a file's fixtures one after the other (tests/conftest.py).
TOGETHER := --numprocesses 2 --dist loadgroup --no-loadscope-reorder

.PHONY: demo test test-full test-docs gpu check docs wheel clean setup chromium

demo: $(INSTALLED)
	$(BIN)/rgcluster demo --run runs/demo

test: $(INSTALLED) chromium
	$(TEST_ENV) $(BIN)/python -m pytest $(TOGETHER)

test-full: $(INSTALLED)
	$(TEST_ENV) $(BIN)/python -m pytest -m long --timeout 1500 --durations 20

# The commands of README and docs, one after the other: a quarter of an hour.
test-docs: $(INSTALLED)
	$(TEST_ENV) $(BIN)/python -m pytest -m pages --timeout 1500 tests/project/test_docs_run.py

# On a machine with a GPU: its tests, then 25 minutes of measurements: build/gpu/gpu.md.
gpu: $(INSTALLED)
	$(BIN)/python -m pytest --noconftest -m gpu tests/bench
	$(BIN)/rgcluster bench gpu --out build/gpu

check: $(INSTALLED)
	$(BIN)/ruff check rgcluster jobs tests docs/picture.py docs/translations.py
	$(BIN)/ruff format --check rgcluster jobs tests docs/picture.py docs/translations.py
	$(BIN)/mypy

# The API reference, from the docstrings: build/api/index.html.
MODULES = $(shell find rgcluster -name '*.py' | sort | sed 's|/__init__||; s|\.py$$||; s|/|.|g')
docs: $(INSTALLED)
	rm -rf build/api
	$(BIN)/python -W ignore -m pdoc --output-directory build/api $(MODULES)

# The project as one file, for machines of a cluster.
wheel: $(INSTALLED)
	rm -rf dist build/lib
	$(BIN)/python -m pip wheel --quiet --disable-pip-version-check --no-deps --wheel-dir dist .

setup: $(INSTALLED)

# The page is tested in a real browser, where one can be had.
chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || \
		{ [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
		apt-get update -qq && apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || \
		echo "no Chromium: the test of the page will be skipped"

# faiss-gpu where a GPU answers, faiss-cpu elsewhere.
$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing into $(VENV): a few minutes, once"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable \
		".[$$(nvidia-smi >/dev/null 2>&1 && echo gpu || echo cpu),dev]"
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

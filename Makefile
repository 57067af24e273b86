# Every target sets up its own virtual environment first.
VENV ?= .venv
BIN := $(VENV)/bin
# another, of the lowest versions that pyproject.toml allows
LOWEST := $(VENV)-lowest
# files and folders for test-lowest, or else all
TESTS ?=
PLUGINS := $(wildcard plugins/*/pyproject.toml)
EDITOR_SERVER := tests/editor/node_modules/.package-lock.json

# bytecode is kept, whatever the caller's environment says: the tests start many processes
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-fast test-nightly test-lowest lint bench bench-losses bench-gpu clean

demo: $(VENV)/installed
	$(BIN)/python examples/emoji/demo.py

# worksteal: a long file that comes last is shared out, and most files keep to one process
PYTEST := python -m pytest -n 2 --dist worksteal

test: $(VENV)/installed $(EDITOR_SERVER)
	$(BIN)/$(PYTEST) -m "not nightly"

test-fast: $(VENV)/installed
	$(BIN)/$(PYTEST) tests -m "not slow and not nightly"

test-nightly: $(VENV)/installed
	$(BIN)/$(PYTEST) -m nightly

test-lowest: $(LOWEST)/installed $(EDITOR_SERVER)
	$(LOWEST)/bin/$(PYTEST) -m "not nightly" $(TESTS)

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: $(VENV)/installed
	$(BIN)/python -m pytest benchmarks --benchmark-only -p no:randomly

bench-losses: $(VENV)/installed
	$(BIN)/python -m benchmarks.losses --device cpu --output runs/benchmark

bench-gpu: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-deps memeff siglip-kernel inf-cl cut-cross-entropy
	$(BIN)/python -m benchmarks.losses --device cuda --deadline 420 --output runs/benchmark

$(VENV)/installed: pyproject.toml $(PLUGINS)
	python3 -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[all]" $(PLUGINS:%/pyproject.toml=-e %) --group dev
	touch $@

# pip cannot prefer the lowest; what the named packages depend on is the newest that fits them
$(LOWEST)/installed: pyproject.toml $(PLUGINS) | $(VENV)/installed
	python3 -m venv --clear $(LOWEST)
	$(BIN)/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct \
		-e ".[all]" $(PLUGINS:%/pyproject.toml=-e %) --group dev
	touch $@

# where it cannot be had, the tests of an editor are skipped and say so
$(EDITOR_SERVER): tests/editor/package-lock.json | $(VENV)/installed
	-$(BIN)/npm ci --prefix tests/editor

clean:
	rm -rf $(VENV) $(LOWEST) runs tests/editor/node_modules

# Every target sets up its own virtual environment first, of this Python.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
# others: of the lowest versions that pyproject.toml allows, of the newest that there are, and of
# the built wheel as a user has it
LOWEST := $(VENV)-lowest
NEWEST := $(VENV)-newest
WHEEL := $(VENV)-wheel
# of the packages that this one is measured beside
PEERS := $(VENV)-peers
# and one for the site, which needs neither torch nor this package
SITE := $(VENV)-docs
# files and folders for test-lowest and test-newest, or else all
TESTS ?=
# how the names of those begin that the sweep is to judge, or else all: hf-text, "timm timm.models.vgg"
NAMES ?=
PLUGINS := $(wildcard plugins/*/pyproject.toml)
EVERYTHING := -e ".[all]" $(PLUGINS:%/pyproject.toml=-e %) --group dev
EDITOR_SERVER := tests/editor/node_modules/.package-lock.json
BROWSER_RUNTIME := tests/browser/node_modules/.package-lock.json

# bytecode is kept, whatever the caller's environment says: the tests start many processes
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo test test-fast test-nightly sweep test-lowest test-newest test-wheel test-bare smoke lint \
	docs bench bench-losses bench-gpu bench-peers clean

demo: $(VENV)/installed
	$(BIN)/python examples/emoji/demo.py

# worksteal: a long file that comes last is shared out, and most files keep to one process
PYTEST := python -m pytest -n 2 --dist worksteal

test: $(VENV)/installed $(EDITOR_SERVER)
	$(BIN)/$(PYTEST) -m "not nightly"

test-fast: $(VENV)/installed
	$(BIN)/$(PYTEST) tests -m "not slow and not nightly"

test-nightly: $(VENV)/installed $(BROWSER_RUNTIME)
	$(BIN)/$(PYTEST) -m nightly

sweep: $(VENV)/installed
	HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m tests.sweep --output runs/sweep.tsv $(NAMES)

test-lowest: $(LOWEST)/installed $(EDITOR_SERVER)
	$(LOWEST)/bin/$(PYTEST) -m "not nightly" $(TESTS)

test-newest: $(NEWEST)/installed $(EDITOR_SERVER)
	$(NEWEST)/bin/$(PYTEST) -m "not nightly" $(TESTS)

smoke: $(VENV)/installed
	$(BIN)/python tests/smoke.py

test-wheel: $(VENV)/installed
	$(call install-wheel,[all],)
	$(WHEEL)/bin/python tests/smoke.py

test-bare: $(VENV)/installed
	$(call install-wheel,,pytest pytest-benchmark pytest-randomly pytest-xdist hypothesis)
	$(WHEEL)/bin/python tests/smoke.py --without-extras
	$(WHEEL)/bin/$(PYTEST) -m "not slow and not nightly" $(shell cat .ci/bare-tests)

# in a fresh environment: the built wheel with extras, and other packages
define install-wheel
	rm -rf dist $(WHEEL)
	$(BIN)/uv build --quiet --wheel
	$(BIN)/uv venv --quiet --python $(BIN)/python $(WHEEL)
	$(BIN)/uv pip install --quiet --python $(WHEEL)/bin/python "$$(echo dist/*.whl)$(1)" $(2)
endef

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright --pythonpath $(BIN)/python

docs: $(SITE)/installed
	$(SITE)/bin/python docs/site/build.py

bench: $(VENV)/installed
	$(BIN)/python -m pytest benchmarks --benchmark-only -p no:randomly

bench-losses: $(VENV)/installed
	$(BIN)/python -m benchmarks.losses --device cpu --output runs/benchmark

bench-gpu: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --no-deps memeff siglip-kernel inf-cl cut-cross-entropy
	$(BIN)/python -m benchmarks.losses --device cuda --deadline 420 --output runs/benchmark

bench-peers: $(PEERS)/installed
	$(PEERS)/bin/python -m benchmarks.peers

$(VENV)/installed: pyproject.toml $(PLUGINS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(EVERYTHING)
	touch $@

# pip cannot prefer the lowest; what the named packages depend on is the newest that fits them
$(LOWEST)/installed: RESOLUTION := lowest-direct
$(NEWEST)/installed: RESOLUTION := highest
$(LOWEST)/installed $(NEWEST)/installed: pyproject.toml $(PLUGINS) | $(VENV)/installed
	$(PYTHON) -m venv --clear $(@D)
	$(BIN)/uv pip install --quiet --python $(@D)/bin/python --resolution $(RESOLUTION) $(EVERYTHING)
	touch $@

# clip-benchmark asks for packages that its evaluation of embeddings does not need
$(PEERS)/installed: pyproject.toml plugins/contrastive-metric-learning/pyproject.toml
	$(PYTHON) -m venv $(PEERS)
	$(PEERS)/bin/python -m pip install --quiet --upgrade pip
	$(PEERS)/bin/python -m pip install --quiet -e ".[all]" -e plugins/contrastive-metric-learning \
		--group peers
	$(PEERS)/bin/python -m pip install --quiet --no-deps clip-benchmark
	touch $@

.PHONY: $(NEWEST)/installed  # made anew each time: what is newest changes

$(SITE)/installed: pyproject.toml
	$(PYTHON) -m venv $(SITE)
	$(SITE)/bin/python -m pip install --quiet --upgrade pip
	$(SITE)/bin/python -m pip install --quiet --group docs
	touch $@

# where it cannot be had, the tests of an editor are skipped and say so
$(EDITOR_SERVER): tests/editor/package-lock.json | $(VENV)/installed
	-$(BIN)/npm ci --prefix tests/editor

# likewise the test of a browser, which needs a Chromium, too
$(BROWSER_RUNTIME): tests/browser/package-lock.json | $(VENV)/installed
	-$(BIN)/npm ci --ignore-scripts --prefix tests/browser

clean:
	rm -rf $(VENV) $(LOWEST) $(NEWEST) $(WHEEL) $(SITE) $(PEERS) build dist runs tests/*/node_modules

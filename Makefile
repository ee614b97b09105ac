# make demo | test | test-long | check | services | bench | chaos | bundle: see the README. Everything lands in .venv, nothing elsewhere
# (but `make services`, which installs a real S3 server's Debian packages for the tests).

PYTHON ?= python3
RUNS ?= 60
SEED ?= 1
TERMS ?= {}
JOBS ?= 2
RELEASE_KEY ?= ~/.config/fedrounds/release.key
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: install demo test test-long check services bench chaos bundle clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v[:2] < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {v.major}.{v.minor}: make PYTHON=python3.11")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[simulation,test,check]'
	@touch $@

demo: install
	$(BIN)/fedrounds demo

test: install
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

test-long: install
	$(BIN)/python -m pytest -m long

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

services:
	bash tests/services/install.sh

bench: install
	$(BIN)/python -m benchmarks.round_overhead
	$(BIN)/python -m benchmarks.secagg
	$(BIN)/python -m benchmarks.lockstep
	$(BIN)/python -m benchmarks.poisoning
	$(BIN)/python -m benchmarks.heart
	$(BIN)/python -m benchmarks.clip_norm

chaos: install
	$(BIN)/python -m tests.chaos.run --runs $(RUNS) --seed $(SEED) --terms '$(TERMS)'

bundle: install
	$(BIN)/python -m infra.supply.build --key $(RELEASE_KEY) --out dist

clean:
	rm -rf $(VENV) .fedrounds .fedrounds-demo build dist

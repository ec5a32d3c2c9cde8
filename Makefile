# Everything that a developer or a newcomer calls. All of it works in .venv, which the first target that needs it builds.

PYTHON ?= python3
BIN := .venv/bin

PLUGINS := $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/*/pyproject.toml))
DISTS := orwcfm_core cli $(PLUGINS)

.PHONY: install demo test check lint types bench clean

install: .venv/installed

.venv/installed: constraints.txt $(DISTS:%=%/pyproject.toml)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt editables hatchling mypy pytest ruff scipy $(DISTS:%=-e ./%)
	touch $@

demo: install
	$(BIN)/orwcfm run --reward clip-score --reg w2 --alpha 0.1

check: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/pytest

test: check

bench: install
	$(BIN)/python benchmarks/overhead.py

clean:
	rm -rf .venv

# Everything that a developer or a newcomer calls. All of it works in .venv, which the first target that needs it builds.

PYTHON ?= python3
BIN := .venv/bin

ALL := orwcfm_core cli $(patsubst %/pyproject.toml,%,$(wildcard plugins/*/*/pyproject.toml))
# Those that bring large packages of their own are installed for the tests, not for the demo.
LARGE := plugins/backbones/sd3 plugins/backbones/torchcfm $(filter plugins/callbacks/%,$(ALL))
DEFAULT := $(filter-out $(LARGE),$(ALL))
TOOLS := editables hatchling hypothesis mypy pytest-xdist ruff scipy

.PHONY: install demo test check docs bench clean

install: .venv/installed

.venv/installed: constraints.txt $(DEFAULT:%=%/pyproject.toml)
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt pytest $(DEFAULT:%=-e ./%)
	touch $@

.venv/complete: .venv/installed $(LARGE:%=%/pyproject.toml)
	$(BIN)/pip install --quiet -c constraints.txt $(TOOLS) $(LARGE:%=-e ./%)
	touch $@

demo: install
	$(BIN)/orwcfm run --reward clip-score --reg w2 --alpha 0.1

# A process for each core, of one thread each; a file's tests stay together, for they share what is slow to make.
check: .venv/complete
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n logical --dist loadfile --no-loadscope-reorder

test: check

# The pages of docs/plugins, from what the plugins say of themselves.
docs: .venv/complete
	$(BIN)/python docs/generate.py

bench: .venv/complete
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf .venv

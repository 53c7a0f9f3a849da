# make demo: synthetic slides through all five commands.   make test: everything that CI runs.
# Each makes .venv by itself; PIP_INDEX_URL, PIP_EXTRA_INDEX_URL and PIP_FIND_LINKS are honoured.
# A CPU wheel of torch (for example from an extra index or a find-links folder) saves 4 GB.

PYTHON ?= python3
BIN := .venv/bin
DEMO ?= demo
MINUTES ?= 10

.PHONY: demo test test-all check format docs site fuzz clean

demo: .venv/ready
	PATH="$(CURDIR)/$(BIN):$$PATH" bash sample_data/demo.sh "$(DEMO)"

test: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "not slow"

test-all: check
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2

check: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

fuzz: .venv/ready
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.fuzz --minutes $(MINUTES)

format: .venv/ready
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: .venv/ready
	$(BIN)/python -m sgcl_cli.artefacts.describe > docs/artefacts.md
	$(BIN)/python -m sgcl_cli.cli.reference > docs/commands.md

site: .venv/ready
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev,site]'
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later is needed; set PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf .venv demo site .pytest_cache .mypy_cache .ruff_cache

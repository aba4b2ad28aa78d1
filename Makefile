# demo   the whole job on a sample it writes itself
# test   the test suite, on all cores           lint   formatting, lint rules, types
# docs   the pages of docs/, as a site below site/
# soak   a hundred kills and more, for many minutes
# bench  speed and memory, as ratios in one run; tables kept in benchmarks/results/
#
# All of them share one environment, .venv, made from constraints.txt.

PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint docs soak bench clean

demo: .venv/installed
	$(BIN)/samkit demo

test: .venv/installed
	$(BIN)/python -m pytest -n auto --dist loadfile

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	$(BIN)/python docs/cli_reference.py
	ln -sfn "$(CURDIR)" .venv/samkit  # docstrings are looked for by the package's name, and its folder may have another
	NO_MKDOCS_2_WARNING=1 PYTHONPATH=.venv $(BIN)/mkdocs build --strict

soak: .venv/installed
	$(BIN)/python -m pytest -m soak

bench: .venv/installed
	$(BIN)/python benchmarks/run.py

clean:
	rm -rf .venv samkit-demo site

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "samkit needs Python 3.11 or later: make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[test,lint]'
	touch $@

# The only entry points: `make test` and `make demo` work on a fresh machine with no other step.
# Set PYTHON=/path/to/python to choose the interpreter that .venv is made from.
SHELL := /bin/sh
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.bayes-optlaws-installed
WARM := $(VENV)/.bayes-optlaws-compiled
KERNELS := $(wildcard bayes_optlaws/kernels/*.py) bayes_optlaws/inference/predictor.py

# Where CI=true (as forges set it) the very versions that the tests passed with are installed.
LOCK := $(if $(filter true,$(CI)),--constraint .ci/constraints.txt)

.PHONY: help setup demo test lint format notebooks docs trackers evaluate benchmark slow clean distclean

help:
	@echo "make setup      create .venv and install the package with its test tools"
	@echo "make demo       fit the shipped pocket grid, rank schedules, say what to run next"
	@echo "make test       lint, format check, tests and doctests"
	@echo "make lint       ruff, mypy and numpydoc: no finding"
	@echo "make format     apply ruff's fixes and formatting"
	@echo "make notebooks  execute every notebook"
	@echo "make trackers   install W&B, MLflow, TensorBoard and test the importers with them"
	@echo "make docs       build the documentation into docs/_build/html"
	@echo "make evaluate   held-out evaluation, the paper's tables; FOLDER=/path/to/tables adds public tables"
	@echo "make benchmark  what fits cost, into docs/benchmark.md; WORLDS=/path/to/tables adds simulated tables"
	@echo "make slow       timed tests, and the slow ones"
	@echo "make clean      remove caches and build output (make distclean: .venv too)"

$(BIN)/python:
	@python="$$(.ci/find-python $(PYTHON))" && echo "creating $(VENV) with $$python" \
		&& "$$python" -m venv $(VENV)

$(STAMP): pyproject.toml | $(BIN)/python
	@.ci/find-python $(BIN)/python >/dev/null
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(LOCK) -e '.[test]'
	@touch $@

# numba compiles for minutes once; set-up pays for that, so that the demo does not.
$(WARM): $(KERNELS) | $(STAMP)
	$(BIN)/python -m bayes_optlaws.cli.warm
	@touch $@

setup: $(STAMP) $(WARM)

demo: $(STAMP) $(WARM)
	$(BIN)/bayes-optlaws demo

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python -m numpydoc lint $$(find bayes_optlaws -name '*.py')

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Two at a time, the tests of a file together: they share what it fits.
test: lint
	$(BIN)/python -m pytest -n 2 --dist loadfile

notebooks: $(STAMP) $(WARM)
	$(BIN)/python -m pytest -o addopts= --nbmake --nbmake-timeout=1800 notebooks

# The trackers' libraries are large, so set-up leaves them out and their tests are skipped there.
trackers: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[test,trackers]'
	$(BIN)/python -m pytest tests/runs/test_importers.py

docs: $(STAMP)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[docs]'
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

# FOLDER holds the public tables; without it only the shipped grid is evaluated.
evaluate: $(STAMP)
	$(BIN)/python -m studies $(FOLDER)
	$(BIN)/python -m studies.paper_tables $(FOLDER)

benchmark: $(STAMP) $(WARM)
	$(BIN)/python -m studies.speed $(WORLDS)

slow: $(STAMP)
	$(BIN)/python -m pytest tests -m "slow or benchmark"

clean:
	rm -rf build dist .pytest_cache .ruff_cache .mypy_cache .hypothesis .benchmarks
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +

distclean: clean
	rm -rf $(VENV)

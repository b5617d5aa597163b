# Two commands do everything on a fresh machine: `make demo` and `make test`.
# Each builds its own environment in .venv if it is missing; neither needs root.

VENV   ?= .venv
PYTHON ?= $(shell command -v python3.11 || command -v python3)
PIP     = $(VENV)/bin/pip --disable-pip-version-check --quiet
OUT    ?= demo-output

.PHONY: demo test lint docs figures lock clean help

help: ## Show this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: $(VENV)/.demo-installed ## Calibrate on the bundled model, compare, draw: writes demo-output/
	$(VENV)/bin/longstride demo --out $(OUT)

test: $(VENV)/.test-installed lint ## All checks: formatting, types, tests, on up to four cores
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -q --numprocesses auto --maxprocesses 4 --dist loadfile

lint: $(VENV)/.test-installed ## Formatting, lint, strict types and the direction of imports
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/ruff check .
	$(VENV)/bin/mypy
	$(VENV)/bin/lint-imports --no-cache

docs: $(VENV)/.test-installed ## The documentation site, with every warning an error: writes site/
	$(VENV)/bin/mkdocs build --strict

figures: $(VENV)/.test-installed ## Everything that README and docs show, from nothing; hours, goes on where stopped
	OMP_NUM_THREADS=1 $(VENV)/bin/torchrun --nproc-per-node 2 -m benchmarks paper --out benchmarks/results
	$(VENV)/bin/python -m benchmarks.overhead
	$(VENV)/bin/python -m benchmarks.memory
	$(VENV)/bin/python -m benchmarks.reference_levels
	$(VENV)/bin/python -m benchmarks.rollouts
	$(VENV)/bin/python -m benchmarks summary
	$(VENV)/bin/python -m benchmarks pages --docs .

lock: $(VENV)/bin/python ## Every package of the demo with its hashes, anew from PyPI: writes requirements.lock
	$(PIP) install uv==0.13.9
	echo 'hatchling>=1.24' | UV_CUSTOM_COMPILE_COMMAND='make lock' $(VENV)/bin/uv pip compile - pyproject.toml \
		--extra metrics --constraint constraints.txt --universal --python-version 3.11 --upgrade \
		--generate-hashes --no-annotate --no-config --quiet --output-file requirements.lock

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.demo-installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --constraint constraints.txt torch
	$(PIP) install --constraint constraints.txt --editable '.[metrics]'
	@touch $@

# The galaxy networks state no licence and import JAX: their files are read, the package is never imported or shipped.
$(VENV)/.test-installed: $(VENV)/.demo-installed
	$(PIP) install --constraint constraints.txt --editable '.[metrics,dev]'
	$(PIP) install --no-deps galaxygrad==0.2.1
	@touch $@

clean: ## Remove the environment and all outputs
	rm -rf $(VENV) demo-output site build dist .pytest_cache .mypy_cache .ruff_cache

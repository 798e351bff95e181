# `make run-experiments` and `make test` set up what they need in $(VENV) first.
# On a machine without network: make PYTHON=/path/to/python VENV= test

VENV ?= .venv
PYTHON ?= python3
RESULTS ?= results
SIZE ?= small
DEVICE ?= cuda
MINUTES ?= 9

ifeq ($(strip $(VENV)),)
RUN := $(PYTHON)
READY :=
else
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
endif

.PHONY: help run-experiments record-reference test quick lint benchmark clean

help: ## show this
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 20

run-experiments: $(READY) ## measure, predict, draw into results/ in minutes (SIZE=full: as results/cpu has it)
	$(RUN) -m profiler run --size $(SIZE) --results $(RESULTS)

record-reference: $(READY) ## record on a GPU what predictions are held against (9 minutes at most; call again to go on)
	$(RUN) -m profiler record-reference --device $(DEVICE) --minutes $(MINUTES) --results $(RESULTS)

test: $(READY) ## run the tests, those that hold measured against predicted memory included
	$(RUN) -m pytest -q --numprocesses 2 --dist worksteal

quick: $(READY) ## the tests of a minute: what needs no training step
	$(RUN) -m pytest -q -m quick --numprocesses 2

lint: $(READY) ## check style and types
	$(RUN) -m ruff format --check .
	$(RUN) -m ruff check .
	$(RUN) -m mypy

benchmark: $(READY) ## time the simulation and the replay, as ratios
	@for script in tests/benchmarks/*.py; do echo "== $$script"; PYTHONPATH=. $(RUN) $$script || exit 1; done

clean: ## remove the virtual environment and caches; results stay
	rm -rf $(VENV) .pytest_cache .ruff_cache .mypy_cache .hypothesis

$(VENV)/.ready: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed; try make PYTHON=python3.12 ..."; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(RUN) -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

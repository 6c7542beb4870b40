# Needs only Python 3.11 or newer, pip and make. Everything is installed into
# virtual environments inside this folder; a second run installs nothing.

PYTHON ?= python3
PYTHON_OLDEST ?= python3.11
PYTEST_ARGS ?= -n 2
MUTATE_ARGS ?= --seed 0 --number 40
VENV := .venv
VENV_OLDEST := .venv-oldest
VENV_BENCHMARKS := .venv-benchmarks
VENV_PEERS := .venv-peers
VENV_DIST := .venv-dist
VENV_CLEAN := .venv-clean

# A bare "torch" brings gigabytes of CUDA libraries on Linux, so the tests name
# the release, and install it before anything that could ask for another one.
TORCH := torch==2.13.0

# Modules of benchmarks/ that write a table. Those that compare with other packages
# run them in an interpreter that has them.
BENCHMARKS ?= exact leave_one_out tuning lds paper1 paper2 search_speed theorem4 network_refits networks network_cost \
	network_kinds language_model refinement simplifications sketch_theory sketch_calibration sketch_speed selection functionals \
	damping suggestions past_one_machine scale hundred_million peers
WITH_PEERS := lds networks network_cost network_kinds
PEERS := dattri==0.3.0 kronfluence==1.0.1 pyinfluence traker cleanlab
# For the table of all of them: pyDVL needs NumPy 1, so they have an environment of their own.
ALL_PEERS := dattri==0.3.0 'pydvl[influence]==0.10.0' pyinfluence==0.5.0 kronfluence==1.0.1 traker==0.3.2 captum==0.9.0

.DEFAULT_GOAL := help
.PHONY: help demo docs test test-slow test-oldest benchmarks mutate dist lint format clean

help:  ## Show this help
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/\1|\2/' \
		| awk -F '|' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: $(VENV)/.demo  ## Rank the harmful rows of real training data: a CSV, a picture and a report in demo/
	PYTHONPATH=. $(VENV)/bin/python scripts/demo.py

docs: $(VENV)/.docs  ## Build the site into docs/_build/html; every example runs
	PYTHONPATH=. $(VENV)/bin/python -m sphinx -W --keep-going -b html docs docs/_build/html

test: $(VENV)/.test  ## Run the test suite
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS)

test-slow: $(VENV)/.test  ## Run the tests marked slow, which `make test` leaves out
	$(VENV)/bin/python -m pytest $(PYTEST_ARGS) -m slow

test-oldest: $(VENV_OLDEST)/.test  ## Run the test suite on the oldest supported versions (Python 3.11)
	$(VENV_OLDEST)/bin/python -m pytest $(PYTEST_ARGS)

benchmarks: $(VENV_BENCHMARKS)/.installed $(VENV_PEERS)/.installed  ## Write all tables of benchmarks/results again: hours of one core
	@for name in $(BENCHMARKS); do \
		case " $(WITH_PEERS) " in *" $$name "*) peers="--peers $(VENV_BENCHMARKS)/bin/python";; *) peers=;; esac; \
		[ $$name != peers ] || peers="--peers $(VENV_PEERS)/bin/python"; \
		echo "python -m benchmarks.$$name $$peers"; \
		OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1 MKL_NUM_THREADS=1 \
			$(VENV_BENCHMARKS)/bin/python -m benchmarks.$$name $$peers || exit 1; \
	done

mutate: $(VENV)/.test  ## Plant small faults in the package and count those that the tests notice
	$(VENV)/bin/python scripts/mutate.py $(MUTATE_ARGS)

# Where there is no network, pip's own settings name a folder of wheels: PIP_NO_INDEX, PIP_FIND_LINKS.
dist: $(VENV_DIST)/.installed  ## Build wheel and sdist, check them, run the doctests of the installed wheel
	rm -rf build dist $(VENV_CLEAN)
	$(VENV_DIST)/bin/python -m build --no-isolation --outdir dist .
	$(VENV_DIST)/bin/python -m twine check --strict dist/*
	$(PYTHON) -m venv $(VENV_CLEAN)
	$(VENV_CLEAN)/bin/python -m pip install --quiet "$$(ls dist/*.whl)[plot,diagnostics,report]" pytest
	$(VENV_CLEAN)/bin/python scripts/doctests_of_installed.py

lint: $(VENV)/.test  ## Check style, format and spelling
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/codespell

format: $(VENV)/.test  ## Bring the sources into the common format
	$(VENV)/bin/ruff check --fix .
	$(VENV)/bin/ruff format .

clean:  ## Remove the virtual environments and what the tools left behind
	rm -rf $(VENV) $(VENV_OLDEST) $(VENV_BENCHMARKS) $(VENV_PEERS) $(VENV_DIST) $(VENV_CLEAN) build dist demo docs/_build docs/generated docs/auto_examples docs/results *.egg-info .pytest_cache .ruff_cache .cache/mutate

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and \
		"Python 3.11 or newer is needed; say which: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)

$(VENV_BENCHMARKS)/bin/python:
	$(PYTHON) -m venv $(VENV_BENCHMARKS)

$(VENV_PEERS)/bin/python:
	$(PYTHON) -m venv $(VENV_PEERS)

$(VENV_DIST)/bin/python:
	$(PYTHON) -m venv $(VENV_DIST)

$(VENV_OLDEST)/bin/python:
	$(PYTHON_OLDEST) -m venv $(VENV_OLDEST)

# Each empty file says that what its recipe installs is there. The interpreter
# is an order-only prerequisite: pip does not make it newer.
$(VENV)/.demo: setup.cfg | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet --editable '.[report]'
	touch $@

$(VENV)/.docs: setup.cfg Makefile | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet $(TORCH)
	$(VENV)/bin/python -m pip install --quiet --editable '.[docs]'
	touch $@

$(VENV)/.test: setup.cfg Makefile | $(VENV)/bin/python
	$(VENV)/bin/python -m pip install --quiet $(TORCH)
	$(VENV)/bin/python -m pip install --quiet --editable '.[all,test]'
	touch $@

$(VENV_OLDEST)/.test: setup.cfg constraints-oldest.txt | $(VENV_OLDEST)/bin/python
	$(VENV_OLDEST)/bin/python -m pip install --quiet --constraint constraints-oldest.txt \
		--editable '.[plot,imblearn,test]'
	touch $@

$(VENV_BENCHMARKS)/.installed: setup.cfg Makefile | $(VENV_BENCHMARKS)/bin/python
	$(VENV_BENCHMARKS)/bin/python -m pip install --quiet $(TORCH)
	$(VENV_BENCHMARKS)/bin/python -m pip install --quiet --editable '.[all,test]' $(PEERS)
	touch $@

$(VENV_PEERS)/.installed: Makefile | $(VENV_PEERS)/bin/python
	$(VENV_PEERS)/bin/python -m pip install --quiet $(TORCH)
	$(VENV_PEERS)/bin/python -m pip install --quiet $(TORCH) $(ALL_PEERS)
	touch $@

$(VENV_DIST)/.installed: | $(VENV_DIST)/bin/python
	$(VENV_DIST)/bin/python -m pip install --quiet build twine 'setuptools>=77' wheel
	touch $@

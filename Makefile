# make demo     a web server is redeployed five times under load
# make quick    lint, types, and the tests that start no process: half a minute
# make test     lint, types, and all tests with branch coverage
# make lint     lint and types alone
# make bench    all benchmarks, a few minutes; writes benchmarks/REPORT.md
# make torture  what takes longer than the tests: upgrades by the thousand, every fault
# make clean    remove what these have made
#
# Each makes .venv first, for which it needs Python 3.10 or newer and pip's
# index.  To use another Python: make test PYTHON=python3.13

PYTHON ?= python3
BIN = .venv/bin

# A little less than is reached, so that a drop is noticed.
COVERED = 93

# Most tests wait most of the time, for processes.
TOGETHER = --numprocesses 4

# Those tests that start no process; what chance finds has fewer examples.
QUICK = --numprocesses 2 -m "not process" --hypothesis-profile quick

.PHONY: demo quick test lint bench torture clean

demo: .venv/package
	$(BIN)/python examples/demo.py

quick: lint
	$(BIN)/pytest $(QUICK)

test: lint
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(TOGETHER)
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=$(COVERED)

lint: .venv/tools
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright

bench: .venv/package
	$(BIN)/python benchmarks/report.py

# 50 upgrades of each of four programs, 1,000 in one chain, and every fault at every
# moment: half an hour.
torture: .venv/tools
	$(BIN)/pip install --quiet --group torture
	$(BIN)/python torture/programs.py
	$(BIN)/python torture/faults.py
	$(BIN)/python torture/endurance.py

clean:
	rm -rf .venv .coverage .coverage.* .hypothesis .mypy_cache .ruff_cache dist torture-results

# These two files say what .venv has been given; each is older than pyproject.toml
# if that has changed since.

.venv/package: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("txtableflip needs Python 3.10 or newer: make PYTHON=..." if sys.version_info < (3, 10) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	$(BIN)/pip install --quiet --editable .
	@touch $@

.venv/tools: .venv/package
	$(BIN)/pip install --quiet --group test --group lint
	@touch $@

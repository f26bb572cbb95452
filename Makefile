# make demo     a web server is redeployed five times under load, and once in vain
# make quick    lint, types, and the tests that start no process: half a minute
# make test     lint, types, and all tests with branch coverage
# make lint     lint and types alone
# make docs     the documentation, in docs/_build/html
# make share    manual pages and completions, in share, from the options
# make recording
#               docs/demo.svg, from make demo
# make release-check
#               what must hold before a release is published (RELEASING.md)
# make bench    all benchmarks, a few minutes; writes benchmarks/REPORT.md
# make conformance
#               Twisted's own tests of its ports, on ours
# make torture  what takes longer than the tests: upgrades by the thousand, every fault
# make clean    remove what these have made
#
# Each makes .venv first, for which it needs Python 3.10 or newer and pip's
# index.  To use another Python: make test PYTHON=python3.13

# The tests start thousands of processes, each of which would compile the same modules again.
unexport PYTHONDONTWRITEBYTECODE

PYTHON ?= python3
BIN = .venv/bin

# Less than is reached, so that a drop is noticed: of a test's variants only the first is
# measured in its processes (tests/conftest.py).
COVERED = 91

# Most tests wait most of the time, for processes.
TOGETHER = --numprocesses 4

# Those tests that start no process; what chance finds has fewer examples.
QUICK = --numprocesses 2 -m "not process" --hypothesis-profile quick

.PHONY: demo quick test lint docs share recording others release-check bench conformance torture clean

demo: .venv/package
	$(BIN)/python examples/demo.py

quick: lint
	$(BIN)/pytest $(QUICK)

test: lint
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest $(TOGETHER) -m "not slow"
	$(BIN)/coverage combine --quiet
	$(BIN)/coverage report --fail-under=$(COVERED)

lint: .venv/tools
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/pyright

docs: .venv/docs
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs docs/_build/html

share: .venv/docs
	COLUMNS=80 $(BIN)/python docs/share.py

recording: .venv/docs
	$(BIN)/python docs/recording.py

# Other ways to deploy, under the same load: docs/comparison.md.
others: .venv/package
	$(BIN)/pip install --quiet --group others
	$(BIN)/python benchmarks/others.py

release-check: .venv/docs
	.ci/release

bench: .venv/package
	$(BIN)/python benchmarks/report.py

# A minute.
conformance: .venv/tools
	$(BIN)/pip install --quiet --group conformance
	$(BIN)/python conformance/compare.py

# 50 upgrades of each of four programs, 5 of each of four that are not changed, 1,000 in one
# chain, every fault at every moment, late services, bad releases, overlapping drains,
# connections that migrate, and a keeper: an hour and a half.
torture: .venv/tools
	$(BIN)/pip install --quiet --group torture
	$(BIN)/python torture/programs.py
	$(BIN)/python torture/anyprogram.py
	$(BIN)/python torture/faults.py
	$(BIN)/python torture/late.py
	$(BIN)/python torture/badreleases.py
	$(BIN)/python torture/overlap.py
	$(BIN)/python torture/migration.py
	$(BIN)/python torture/endurance.py
	$(BIN)/python torture/keeper.py
	$(BIN)/pytest -m slow

clean:
	rm -rf .venv .coverage .coverage.* .hypothesis .mypy_cache .ruff_cache dist docs/_build torture-results

# These files say what .venv has been given; each is older than pyproject.toml
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

.venv/docs: .venv/package
	$(BIN)/pip install --quiet --group docs
	@touch $@

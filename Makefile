# Needs Python 3.11+ with venv, and nothing else. Every target may be run again at any time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.PHONY: setup chat test check bench debian
.DEFAULT_GOAL := setup

setup: $(VENV)/.stamp
	@$(BIN)/mattoni models pull

chat: setup
	@$(BIN)/mattoni ui

# Tests answer with the smallest host, whatever this machine's owner has chosen. Two processes with one thread each: beside
# another busy process, two threads of torch wait for one another more than they work.
test: export MATTONI_HOST = builtin
test: export OMP_NUM_THREADS = 1
test: check debian
	@$(BIN)/mattoni models pull
	$(BIN)/python -m pytest -m "" --numprocesses 2 --dist loadfile

check: $(VENV)/.stamp-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: setup
	@$(BIN)/mattoni bench turn

$(VENV)/.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("Mattoni needs Python 3.11 or newer, and this is " + sys.version.split()[0] + ": install one and run make PYTHON=python3.11.")'
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "Could not make $(VENV): install Python's venv (Debian: apt-get install python3-venv) and try again." >&2; exit 1; }
	@echo "Installing the packages into $(VENV) (once; some minutes) ..."
	@$(PIP) --editable .
	@touch $@

$(VENV)/.stamp-dev: $(VENV)/.stamp
	@echo "Installing the tools for tests and checks ..."
	@$(PIP) --editable '.[dev]'
	@touch $@

# Debian's chromium and PostgreSQL, for the tests that need them. Where they may not be installed, those are skipped and say so.
debian:
	@command -v chromium >/dev/null || $(call install,chromium)
	@command -v initdb >/dev/null || ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || $(call install,postgresql)

install = { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -qq --yes --no-install-recommends $(1) >/dev/null; } || echo "No $(1), and it cannot be installed here: its tests will be skipped."

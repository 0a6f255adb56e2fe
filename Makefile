# make help lists what there is. PYTHON=/path/to/python3.12 chooses another Python (3.11 or newer).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.PHONY: run test lint bench demo clean help tools

VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/.stamps
PIP := $(BIN)/python -m pip install -qq --disable-pip-version-check --no-input
PYTHON ?= $(shell for p in python3 python3.11 python3.12 python3.13 python3.14; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)

help: ## list what there is
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/make \1\t\2/p' Makefile | expand -t 12

run: $(STAMPS)/app ## start a node with its data in ./data; settings: ODS_... or ./ods.yaml
	@exec $(BIN)/ods serve $(ARGS)

# Most tests wait for processes: four share two cores well. Nodes start by the hundred, so they are compiled once.
test: $(STAMPS)/test tools ## run all tests; ARGS="-k word" chooses
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m pytest -n 4 $(ARGS)

lint: $(STAMPS)/lint ## check style, types and the layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-cache

bench: $(STAMPS)/test tools ## measure against nginx, curl, sha1sum and rsync
	@exec $(BIN)/python -m tests.benchmarks $(ARGS)

demo: $(STAMPS)/app ## three nodes in a chain, a package that travels; Ctrl-C ends it
	@exec $(BIN)/ods demo $(ARGS)

clean: ## remove what was built here; ./data stays
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis .bench .cache
	find . -name __pycache__ -type d -not -path './data/*' -prune -exec rm -rf {} +

# Debian keeps ensurepip in a package of its own. It is installed for root; anybody else is told.
$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
		echo "Python 3.11 or newer is needed. On Debian or Ubuntu: sudo apt-get install python3 python3-venv" >&2; exit 1; fi
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then \
		package=$$($(PYTHON) -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])'); \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			echo "Installing $$package ..."; \
			apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install "$$package" >/dev/null; \
		else \
			echo "$(PYTHON) cannot make virtual environments here. Run: sudo apt-get install $$package" >&2; exit 1; \
		fi; fi
	@echo "Making $(VENV) with $$($(PYTHON) --version) ..."
	@rm -rf $(VENV) && $(PYTHON) -m venv $(VENV)

# One stamp for each set of requirements: the second run starts at once.
$(STAMPS)/app: pyproject.toml | $(BIN)/python
	@echo "Installing what the node needs ..."
	@$(PIP) --editable . && mkdir -p $(STAMPS) && touch $@

$(STAMPS)/test: pyproject.toml | $(BIN)/python
	@echo "Installing what the tests need ..."
	@$(PIP) --editable '.[test]' && mkdir -p $(STAMPS) && touch $@ $(STAMPS)/app

$(STAMPS)/lint: pyproject.toml | $(BIN)/python
	@echo "Installing what the checks need ..."
	@$(PIP) --editable '.[test,lint]' && mkdir -p $(STAMPS) && touch $@ $(STAMPS)/test $(STAMPS)/app

# The other servers of the comparisons, and what the driver of the browser is linked to. Without them some tests are
# skipped, except in CI.
tools:
	@missing=""; export PATH="$$PATH:/usr/sbin:/sbin"; \
	for tool in curl nginx rsync strace libarchive-tools:bsdtar 7zip:7zz slapd ldap-utils:ldapmodify chromium npm; do \
		command -v "$${tool#*:}" >/dev/null || missing="$$missing $${tool%:*}"; done; \
	if command -v ldconfig >/dev/null && ! ldconfig -p | grep libatomic.so.1 >/dev/null; then \
		missing="$$missing libatomic1"; fi; \
	if [ -n "$$missing" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
		echo "Installing$$missing ..."; \
		if (apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y --no-install-recommends install $$missing \
			) >/dev/null; then missing=""; fi; fi; \
	if [ -n "$$missing" ]; then \
		echo "Missing:$$missing. To have them: sudo apt-get install$$missing" >&2; \
		if [ "$${CI:-}" = true ]; then exit 1; fi; fi

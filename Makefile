# Two commands do everything on a fresh clone: `make reproduce` and `make test`. Both create .venv when it is missing.
# They need Python 3.11-3.13, make and a package index. `make help` lists the rest.
SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help moved install reproduce test lint clean clean-all

VENV  := .venv
BIN   := $(VENV)/bin
STAMP := $(VENV)/.installed
LOG   := $(VENV)/install.log
VERSIONS := Python 3.11, 3.12 or 3.13
CHECK := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))
# PYTHON=python3.12 chooses the interpreter; otherwise it is the first of these that has an accepted version.
PYTHON ?=
CANDIDATES := python3 python3.13 python3.12 python3.11
# The stamp holds where it was made: the scripts of an environment do not survive a move of the clone.
ifneq ($(wildcard $(STAMP)),)
ifneq ($(shell cat $(STAMP)),$(CURDIR))
MOVED := yes
$(STAMP): moved
endif
endif
# JOBS test processes of one thread each.
JOBS ?= 2
# ARGS is handed on: make test ARGS="tests/test_cli.py -x", make reproduce ARGS="01_ddpm_basics"
ARGS ?=

help:
	@echo "make reproduce   install if needed, run the notebooks, regenerate tables and figures"
	@echo "make test        install if needed, run the tests"
	@echo "make install     create $(VENV) with the pinned environment (PYTHON=python3.12 chooses the interpreter)"
	@echo "make lint        ruff and the import rules"
	@echo "make clean       remove build/ and caches; make clean-all removes $(VENV) too"
	@echo "ARGS=... is handed on to 'repro reproduce' and to pytest, JOBS=N sets the test processes"

install: $(STAMP)

moved:

# A half-made environment never gets a stamp; one that no longer runs, or stood elsewhere, is made again.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if [ -n "$(MOVED)" ] || { [ -e $(VENV) ] && ! $(BIN)/python -m pip --version >/dev/null 2>&1; }; then \
	  echo "[install] $(VENV) was made elsewhere or does not run: making it again"; rm -rf $(VENV); fi; \
	if [ ! -e $(VENV) ]; then \
	  python=; for each in $(or $(PYTHON),$(CANDIDATES)); do \
	    if $$each -c '$(CHECK)' >/dev/null 2>&1; then python=$$each; break; fi; done; \
	  if [ -z "$$python" ]; then first=$(firstword $(PYTHON) python3); \
	    echo "[install] $(VERSIONS) is needed, $$first is: $$($$first --version 2>&1 | head -n 1). Name another: make PYTHON=..." >&2; exit 1; fi; \
	  echo "[install] 1/2 creating $(VENV) with $$($$python --version)"; \
	  $$python -m venv $(VENV) || { rm -rf $(VENV); \
	    echo "[install] '$$python -m venv' failed: its venv module is needed (on Debian and Ubuntu the package python3-venv)." >&2; exit 1; }; \
	elif ! $(BIN)/python -c '$(CHECK)'; then \
	  echo "[install] $(VERSIONS) is needed, $(VENV) has $$($(BIN)/python --version): remove it with 'make clean-all'." >&2; exit 1; \
	fi; \
	total=$$(grep -c '==' constraints.txt); start=$$(date +%s); rm -f $(STAMP); \
	echo "[install] 2/2 installing up to $$total pinned packages, some GB with torch; log in $(LOG)"; \
	{ $(BIN)/python -m pip install --disable-pip-version-check --no-input --progress-bar off \
	    -c constraints.txt -e '.[dev]' && echo '$(CURDIR)' >$(STAMP).new; } 2>&1 | tee $(LOG) | \
	  awk -v total=$$total '/^ *Collecting /{n++; if (n % 15 == 1) {printf "[install]   %d of about %d: %s\n", n, total, $$2; fflush()}} \
	    /^Installing collected/{print "[install]   unpacking"; fflush()}'; \
	if [ ! -e $(STAMP).new ]; then echo "[install] pip failed; the end of $(LOG):" >&2; tail -n 15 $(LOG) >&2; exit 1; fi; \
	mv $(STAMP).new $(STAMP); echo "[install] done in $$(( $$(date +%s) - start )) s"

reproduce: $(STAMP)
	@$(BIN)/repro reproduce $(ARGS)

# Threads are set to one per process, so that JOBS processes fill JOBS cores and results do not depend on the machine.
test: $(STAMP)
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(JOBS) --dist loadfile $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/lint-imports

clean:
	rm -rf build .pytest_cache .ruff_cache .hypothesis .import_linter_cache
	find repro tests notebooks -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true

clean-all: clean
	rm -rf $(VENV)

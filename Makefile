# What people do with this repository. `make` alone lists it.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test check lock clean

VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# The Python to build .venv with. Left empty, it is the first one here that will do.
PYTHON ?=
# What `make test` passes on to pytest, for example ARGS="tests/sdk -x".
ARGS ?=
# What `make lock` passes on to uv, for example LOCK_ARGS=--upgrade.
LOCK_ARGS ?=

help: ## Print this list.
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "make %-6s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo "Next: make demo"

demo: $(INSTALLED) ## Train on four ranks into one run, read it back, end everything that was started.
	@$(BIN)/python examples/demo.py

test: $(INSTALLED) ## Run the tests. ARGS="tests/sdk -x" runs some of them.
	@$(BIN)/pytest -q $(ARGS)
	@echo "Next: make check"

check: $(INSTALLED) ## Formatting, lint, types, who imports whom, generated code in step.
	@failed=""; \
	$(BIN)/ruff format --check --quiet . || failed+=" format ($(BIN)/ruff format . mends it)"; \
	$(BIN)/ruff check --quiet . || failed+=" lint"; \
	$(BIN)/mypy || failed+=" types"; \
	$(BIN)/lint-imports || failed+=" imports"; \
	$(BIN)/python proto/generate.py --check || failed+=" generated-code"; \
	if [ -n "$$failed" ]; then echo "Not as it should be:$$failed"; exit 1; fi
	@echo "All checks passed. Next: commit."

lock: ## Make requirements.lock again from pyproject.toml. LOCK_ARGS=--upgrade takes newer releases.
	@scratch=$$(mktemp -d) && trap 'rm -rf "$$scratch"' EXIT && \
	$(find_python) && "$$python" -m venv "$$scratch/venv" && \
	"$$scratch/venv/bin/pip" install --quiet --disable-pip-version-check uv && \
	"$$scratch/venv/bin/uv" pip compile --quiet pyproject.toml --all-extras --group dev --universal \
	  --python-version 3.11 --generate-hashes $(LOCK_ARGS) -o requirements.lock \
	  --custom-compile-command "make lock"
	@echo "requirements.lock is made. Next: make test"

clean: ## Remove .venv, caches and what the demo kept.
	@rm -rf $(VENV) .venv-generate dist build demo-data .mypy_cache .ruff_cache .pytest_cache \
	  .hypothesis .import_linter_cache
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "Clean. Next: make demo"

# A shell fragment: sets $python to an interpreter that is new enough and can make environments.
define find_python
python=""; for candidate in $(if $(PYTHON),$(PYTHON),python3.13 python3.12 python3.11 python3); do \
  if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
    if "$$candidate" -c 'import venv, ensurepip' 2>/dev/null; then python="$$candidate"; break; fi; \
    echo "$$candidate cannot make environments (on Debian: apt install python3-venv)" >&2; \
  fi; \
done; \
if [ -z "$$python" ]; then \
  echo "plait needs Python 3.11 or newer, and found none. Install one, or say which: make PYTHON=/path/to/python3.11 demo" >&2; \
  exit 1; \
fi
endef

$(INSTALLED): requirements.lock pyproject.toml
	@$(find_python); \
	echo "Installing into $(VENV) with $$("$$python" --version), from requirements.lock. Once; this takes a minute."; \
	"$$python" -m venv $(VENV) && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock && \
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e . && \
	touch $@

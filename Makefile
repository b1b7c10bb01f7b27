# MDT Studio. Every target sets up what it needs: `make app` and `make test` work on a fresh clone.

VENV := .venv
BIN := $(VENV)/bin
APP_ARGS ?=
TEST_ARGS ?=
WORKERS ?= 2
FUZZ_EXAMPLES ?= 20000
SOAK_SECONDS ?= 3600

# The first interpreter that starts and is a Python that the pinned packages install on. Debian's may lack ensurepip,
# without which no environment can be made: one that has it comes first.
CANDIDATES := python3.11 python3.12 python3.13 python3.14 python3
RIGHT := import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))
first = $(shell for p in $(CANDIDATES); do $$p -c '$(1)' 2>/dev/null && echo $$p && break; done)
PYTHON ?= $(or $(call first,import ensurepip; $(RIGHT)),$(call first,$(RIGHT)))

.PHONY: help app space test test-fast fuzz soak setup lint format clean

help:
	@echo "make app        start MDT Studio on http://127.0.0.1:7860      (APP_ARGS=\"--port 8000\")"
	@echo "make space      put the app on a Hugging Face Space            (REPO_ID=you/mdt-studio)"
	@echo "make test       run all tests, two at a time                   (TEST_ARGS=\"-k masking\", WORKERS=4)"
	@echo "make test-fast  run those that need no process, no browser and no long run"
	@echo "make fuzz       damage everything that strangers send, for long (FUZZ_EXAMPLES=20000)"
	@echo "make soak       let visitors come and go for an hour           (SOAK_SECONDS=3600)"
	@echo "make setup      install what tests, data building and training need"
	@echo "make lint       ruff check, ruff format --check, pyrefly check (types)"
	@echo "make format     let ruff rewrite the sources"
	@echo "make clean      remove $(VENV) and the caches"

app: $(VENV)/.app
	@echo "== starting MDT Studio"
	$(BIN)/python app.py $(APP_ARGS)

space: $(VENV)/.app
	@test -n "$(REPO_ID)" || { echo "Say where to: make space REPO_ID=you/mdt-studio" >&2; exit 1; }
	$(BIN)/python -m app.space $(REPO_ID)

test: $(VENV)/.dev
	@echo "== running the tests"
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup $(TEST_ARGS)

test-fast: $(VENV)/.dev
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadgroup -m "not slow and not browser" $(TEST_ARGS)

fuzz: $(VENV)/.dev
	FUZZ_EXAMPLES=$(FUZZ_EXAMPLES) $(BIN)/python -m pytest tests/fuzz $(TEST_ARGS)

soak: $(VENV)/.dev
	SOAK_SECONDS=$(SOAK_SECONDS) $(BIN)/python -m pytest -s tests/soak $(TEST_ARGS)

setup: $(VENV)/.dev
	@echo "== $(VENV) is ready: source $(BIN)/activate"

lint: $(VENV)/.dev
	@echo "== ruff and types"
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyrefly check --python-interpreter-path $(BIN)/python

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt

# Stamps: a requirements file newer than its stamp is installed again.
$(BIN)/pip:
	@test -n "$(PYTHON)" || { echo "No Python from 3.11 to 3.14 was found: install one (apt install python3 python3-venv, or brew install python), or say make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c '$(RIGHT)' 2>/dev/null || { echo "$(PYTHON) is no Python from 3.11 to 3.14: say make PYTHON=/path/to/python3" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { echo "$(PYTHON) cannot make an environment, its module ensurepip is missing: apt install $(notdir $(PYTHON))-venv" >&2; exit 1; }
	@echo "== making $(VENV) with $(PYTHON) (once)"
	$(PYTHON) -m venv $(VENV)

$(VENV)/.app: requirements.txt constraints.txt | $(BIN)/pip
	@echo "== installing what the app needs into $(VENV) (once; some minutes)"
	$(INSTALL) -r requirements.txt
	@touch $@

$(VENV)/.dev: requirements-dev.txt requirements.txt constraints.txt | $(BIN)/pip
	@echo "== installing what app, tests and training need into $(VENV) (once; some minutes)"
	$(INSTALL) -r requirements-dev.txt
	@touch $(VENV)/.app $@

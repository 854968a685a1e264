# Threadsight: `make run` starts it, `make test` tests it; both install into .venv first when needed. `make help` lists the rest.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
BIN := $(VENV)/bin
LOCK := constraints.txt
ALL_EXTRAS := all,dev

# The first Python that is new enough; `make PYTHON=/path/to/python3.12 install` takes another.
ifndef PYTHON
PYTHON := $(shell for python in python3 python3.13 python3.12 python3.11; do \
	if "$$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then echo "$$python"; exit; fi; done; echo python3)
endif

# Running needs an extra only when the environment or .env asks for it. Only whether a variable is set is looked at. Which variable
# of a platform asks for which extra is in pyproject.toml, beside the extras.
is_set = $(shell if [ -n "$${$(1):-}" ] || grep -Eqs '^[[:space:]]*(export[[:space:]]+)?$(1)[[:space:]]*=[[:space:]]*["'\'']?$(2)' .env; then echo yes; fi)
ASKED_BY := $(shell sed -n '/^\[tool\.threadsight\.asked-by\]/,/^$$/s/^\([A-Z_]*\) = "\([a-z]*\)".*/\1:\2/p' pyproject.toml)
RUN_EXTRAS := $(sort \
	$(foreach pair,$(ASKED_BY),$(if $(call is_set,$(word 1,$(subst :, ,$(pair))),[^"'\''[:space:]#]),$(word 2,$(subst :, ,$(pair))))) \
	$(if $(call is_set,THREADSIGHT_QUANTIZATION,[48Aa]),quantization) \
	$(if $(call is_set,THREADSIGHT_DATABASE_URL,postgres),postgres))
empty :=
comma := ,
RUN_STAMP := $(VENV)/.installed$(addprefix -,$(subst $(empty) $(empty),-,$(RUN_EXTRAS)))
DEV_STAMP := $(VENV)/.installed-dev

# The build's own requirements come from the lock too: pip before 25.3 reads the first variable for that, later ones the second.
PIP_INSTALL = PIP_CONSTRAINT=$(LOCK) PIP_BUILD_CONSTRAINT=$(LOCK) $(BIN)/python -m pip install --disable-pip-version-check -c $(LOCK)

.PHONY: help install run demo test mutants clients corpus lint format types build lock train-tiny evaluate-tiny

help: ## List what can be made
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1|\2/p' Makefile | while IFS='|' read -r name text; do printf '%-22s%s\n' "$$name" "$$text"; done

# What is installed for development holds everything that running needs.
install: $(if $(wildcard $(DEV_STAMP)),$(DEV_STAMP),$(RUN_STAMP)) ## Install what running needs into .venv

run: install ## Start Threadsight; it prints the address of its page
	@$(BIN)/threadsight run $(ARGS)

demo: $(DEV_STAMP) ## Try the bot by hand without tokens, on a Discord and a Slack of its own
	@$(BIN)/python -m tests.demo

# In as many processes as there are processors. Tests that share something costly are kept together (tests/conftest.py says which).
test: $(DEV_STAMP) ## Run all tests; ARGS="-k name" is handed to pytest
	@$(BIN)/python -m pytest -n logical --maxprocesses 4 $(ARGS)

mutants: $(DEV_STAMP) ## Put small faults into the core and see whether its tests notice; takes up to an hour
	@HF_HUB_OFFLINE=1 $(BIN)/python -m tests.mutants $(ARGS)

clients: $(DEV_STAMP) ## Ask `threadsight serve` with ten clients, which are installed for it; needs the network
	@$(BIN)/python -m tests.field.clients $(ARGS)

corpus: $(DEV_STAMP) ## Read other people's picture files, compare them with ImageMagick; downloads them first
	@$(BIN)/python -m tests.field.corpus $(ARGS)

lint: $(DEV_STAMP) ## Check style and formatting
	$(BIN)/ruff check
	$(BIN)/ruff format --check

format: $(DEV_STAMP) ## Put style and formatting right
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

types: $(DEV_STAMP) ## Check types
	$(BIN)/mypy bot adapters model_server tests

build: $(DEV_STAMP) ## Build the wheel and the source archive into dist/
	rm -rf dist
	$(BIN)/python -m build --no-isolation

lock: ## Write constraints.txt anew with the newest versions that pyproject.toml allows
	rm -rf .work/lock
	$(PYTHON) -m venv .work/lock
	.work/lock/bin/python -m pip install --disable-pip-version-check --upgrade -e '.[$(ALL_EXTRAS)]'
	{ echo '# Exact versions of everything, all extras included; written by `make lock`, used as `pip install -c constraints.txt`.'; \
	  echo '# No local versions: torch is the CPU or the CUDA build, as pip finds it, and pins its own CUDA packages.'; \
	  .work/lock/bin/python -m pip freeze --all --exclude-editable --exclude pip \
	  | grep -Eiv '^(nvidia|cuda|triton)[-_=]|^#' | sed -E 's/\+[^ ]*$$//' | LC_ALL=C sort -f; } > .work/$(LOCK)
	mv .work/$(LOCK) $(LOCK)
	rm -rf .work/lock

train-tiny: $(DEV_STAMP) ## Train the bundled model again
	@$(BIN)/python -m model_server.tiny.train $(ARGS)

evaluate-tiny: install ## Examine the bundled model on fresh pictures
	@$(BIN)/python -m model_server.tiny.evaluate $(ARGS)

$(VENV)/.created:
	@command -v "$(PYTHON)" >/dev/null || { echo 'Threadsight needs Python 3.11 or newer, and there is no $(PYTHON) here. Please install it.' >&2; exit 1; }
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "Threadsight needs Python 3.11 or newer; $(PYTHON) is $$("$(PYTHON)" -V 2>&1). Another one: make PYTHON=/path/to/python3.12 install" >&2; exit 1; }
	@"$(PYTHON)" -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo 'This Python comes without its venv module. On Debian and Ubuntu: apt-get install python3-venv' >&2; exit 1; }
	@"$(PYTHON)" -m venv $(VENV)
	@touch $@

$(RUN_STAMP): $(VENV)/.created pyproject.toml $(LOCK)
	@echo 'Installing Threadsight into $(VENV)/; the first time this downloads PyTorch, which is large.'
	$(PIP_INSTALL) -e '.$(if $(RUN_EXTRAS),[$(subst $(empty) $(empty),$(comma),$(RUN_EXTRAS))])'
	@touch $@

$(DEV_STAMP): $(VENV)/.created pyproject.toml $(LOCK)
	@echo 'Installing Threadsight and what its tests need into $(VENV)/; the first time this downloads PyTorch, which is large.'
	$(PIP_INSTALL) -e '.[$(ALL_EXTRAS)]'
	@touch $@

# Everything runs in a virtual environment that these targets make themselves; only Python 3.11+, pip and make are needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt | cksum | cut -d' ' -f1)

.PHONY: help install demo stack test test-slow test-faults check format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo [SOURCE=folder]  photos become a promoted restoration model (about 10 minutes on two cores)"
	@echo "make stack                 S3, MLflow on PostgreSQL and a Ray head on this machine, until Ctrl-C"
	@echo "make test                  the tests, eight minutes at most on two cores"
	@echo "make test-slow             those that run longer"
	@echo "make test-faults           those that kill processes, nodes and servers"
	@echo "make check                 ruff, mypy and the import contracts"
	@echo "make format                let ruff rewrite what it can"
	@echo "make clean                 remove what demo and tests made (make clean-all: also the environment)"

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing (about two minutes the first time) ..."
	@# compat: a folder named `evaluation` in the working directory must not hide the package of that name
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--config-settings editable_mode=compat --editable '.[dev]'
	@$(BIN)/python -m resshift.perceptual
	@$(BIN)/python -m evaluation.niqe_model
	@rm -f $(VENV)/.installed-*
	@touch $@

demo: $(INSTALLED)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m infra.demo $(if $(SOURCE),--source "$(SOURCE)")

stack: $(INSTALLED)
	@PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python -m infra.stack $(ARGS)

# Three, although two cores are all that is asked for: these tests start and await processes more than they compute.
IN_PARALLEL := --numprocesses 3 --dist loadfile --no-loadscope-reorder

test: $(INSTALLED)
	@PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_PARALLEL) \
		$(or $(ARGS),-m "not faults and not slow" --durations 15)

test-slow: $(INSTALLED)
	@PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_PARALLEL) -m "slow and not faults" --durations 15

test-faults: $(INSTALLED)
	@PATH="$(abspath $(BIN)):$$PATH" OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(IN_PARALLEL) -m faults --durations 15

check: $(INSTALLED)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy resshift degradations infra pipelines training evaluation
	$(BIN)/lint-imports

format: $(INSTALLED)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf demo build *.egg-info mlflow.db mlruns mlartifacts .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

.PHONY: clean-all
clean-all: clean
	rm -rf $(VENV)

PYTHON ?= python3
VENV   := .venv
READY  := $(VENV)/.ready
BIN    := $(VENV)/bin
DEMO   ?= runs/demo

# One process, on a GPU where there is one. --quiet: after a mistake, our line alone and not the launcher's traceback.
LAUNCH := $(BIN)/accelerate launch --quiet --num_processes 1 --num_machines 1 --mixed_precision no --dynamo_backend no

.DEFAULT_GOAL := help
.PHONY: help install demo test test-slow faults gpu-pack gpu-check gpu-rehearse lint format docs lock clean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(READY)  ## make .venv with everything pinned in requirements.lock

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than 3.11; run: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)" >&2; exit 1; }
	@echo "installing into $(VENV): some 6 GB, two to six minutes"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install --disable-pip-version-check --quiet --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(READY)  ## draw a data set, train on it, translate: 4 to 6 minutes on 2 CPU cores
	$(BIN)/python data_prep/demo.py $(DEMO)/images
	$(BIN)/python data_prep/shard.py --source $(DEMO)/images --out $(DEMO)/shards
	$(LAUNCH) pipeline/train.py --preset demo --data $(DEMO)/shards --out $(DEMO)
	$(BIN)/python pipeline/translate.py $(DEMO) $(DEMO)/images/testA $(DEMO)/translated --direction a2b
	@echo "open $(DEMO)/report.html in a browser"

test: $(READY)  ## the tests, in about 8 minutes on 2 CPU cores
	$(BIN)/python -m pytest -m "not slow and not exhaustive" -n 2 --dist loadfile

test-slow: $(READY)  ## the longer tests, also on a real Slurm where there is one
	$(BIN)/python -m pytest -m "slow and not exhaustive" -n 2 --dist loadfile

faults: $(READY)  ## kill, starve and damage runs, all with data workers, and print what they survived
	ZORSE_TEST_WORKERS=2 $(BIN)/python -m pytest -m fault --fault-table

gpu-pack:  ## lay what a GPU machine may lack into .gpu/ (REFERENCE=DIR, SHARDS=DIR: other code, a data set)
	$(PYTHON) benchmarks/gpu/pack.py $(if $(REFERENCE),--reference "$(REFERENCE)") $(if $(SHARDS),--shards "$(SHARDS)")

# With the Python that has PyTorch there: on a borrowed machine nothing is installed, and often nothing can be.
gpu-check:  ## on a machine with a GPU: tests, speeds, a real run, in nine minutes; results in runs/gpu-check
	$(PYTHON) benchmarks/gpu/check.py

gpu-rehearse: $(READY)  ## the course of gpu-check on a CPU, with tiny networks
	$(BIN)/python benchmarks/gpu/check.py --rehearse

lint: $(READY)  ## ruff, check and format; import-linter, the layers of docs/design.md
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache

format: $(READY)  ## let ruff rewrite the files
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(READY)  ## the pages of docs/ as a site in build/docs
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

lock:  ## pin the newest versions in requirements.lock (needs uv)
	uv pip compile pyproject.toml --extra dev --universal --python-version 3.11 --generate-hashes --upgrade \
		--no-annotate --no-header --no-emit-index-url -o requirements.lock

clean:  ## remove what the demo and the tests made; .venv stays
	rm -rf $(DEMO) build .pytest_cache .ruff_cache

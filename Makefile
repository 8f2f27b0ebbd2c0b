# Thin on purpose: each target sets up .venv by itself and calls one program.

PYTHON ?= python3
TOPOLOGY ?= dgx-h100
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.DEFAULT_GOAL := help
.PHONY: help demo test lint format bench generate docs lock images sbom clean

help: ## Show the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: $(READY) ## Prepare a simulated node with all four agents (TOPOLOGY=h200-vm, workstation, shared-group, ...)
	@$(BIN)/python -m tests.demo $(TOPOLOGY)

test: $(READY) ## Everything: behaviour, linters, types, import rules, generated code
	@$(BIN)/python -m pytest -q -n auto

lint: $(READY) ## Linters, types and import rules alone
	@$(BIN)/python -m pytest -q tests/test_repository.py

format: $(READY) ## Format the code
	@$(BIN)/ruff format -q . && $(BIN)/ruff check -q --fix .

images: ## Build the images with docker, podman or buildah (ENGINE, BASE, PLATFORM, REGISTRY, TAG, AGENTS)
	@$(PYTHON) -m images.build $(foreach name,ENGINE BASE PLATFORM REGISTRY TAG,$(if $($(name)),--$(shell echo $(name) | tr A-Z a-z)=$($(name)))) $(AGENTS)

sbom: $(READY) ## Write what is in each image as CycloneDX to dist/sbom
	@$(BIN)/python -m images.sbom

lock: $(READY) ## Write what each image installs, with hashes, after a change of what an agent needs
	@$(BIN)/python -m images.lock

bench: $(READY) ## Measure what the design sets targets for
	@$(BIN)/python -m tests.bench

generate: $(READY) ## Generate the kubelet stubs anew from proto/
	@$(BIN)/python proto/generate.py

docs: $(READY) ## Write the pages and pictures of docs/ that are made from the code
	@$(BIN)/python -m tests.pages

clean: ## Remove the environment and all caches
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .import_linter_cache

$(READY): constraints.txt tests/requirements.txt pyproject.toml $(wildcard agents/*/pyproject.toml)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "Python 3.11 or later is needed; name one with: make PYTHON=python3.12"; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || \
		{ echo "python venv is missing; on Debian and Ubuntu: apt install python3-venv"; exit 1; }
	@echo "setting up $(VENV) (once)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -r tests/requirements.txt
	@touch $(READY)

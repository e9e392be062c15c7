# Thin targets; the work is in tools/. `make` alone lists them.
VENV       ?= .venv
PY         := $(VENV)/bin/python
PYTHON     ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done || echo python3)
HOST       ?= 127.0.0.1
PORT       ?= 8080
SERVE_ARGS ?=
DEMO_ARGS  ?=
PYTEST     := $(PY) -m pytest --durations=10
HEAVY      := model or browser or slow or cluster
ACCEL      ?= cpu
BASE       ?=

.DEFAULT_GOAL := help
.PHONY: demo help install model programs serve check layout lint types layers generated generate format test test-fast bench gpu images push lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

install: ## make .venv from requirements.lock (compiles llama.cpp once, about 6 minutes on two cores)
	@$(PYTHON) -m tools.install $(VENV)

model: install ## fetch the default model into the cache, print its path
	@$(PY) -m tools.model

programs: install
	@$(PY) -m tools.system_packages test
	@$(PY) -m dev.localcluster prepare

demo: ## Kubernetes on this machine, our chart, one model, one chat through its Service (DEMO_ARGS=--once ends there)
	@python=$$($(PYTHON) -m tools.buildtools) && exec "$$python" -m dev.localcluster.demo $(DEMO_ARGS)

serve: install ## serve the default model on http://127.0.0.1:8080 (SERVE_ARGS adds options)
	@model=$$($(PY) -m tools.model) && exec $(VENV)/bin/llamaserver -m "$$model" \
		--host $(HOST) --port $(PORT) -c 8192 -np 4 -cb --metrics $(SERVE_ARGS)

check: layout lint types layers generated ## formatting, lint, types, layer rules, generated files (make -k check: all of them)

layout: install
	$(PY) -m ruff format --check --quiet .

lint: install
	$(PY) -m ruff check .

types: install
	$(PY) -m mypy

layers: install
	$(VENV)/bin/lint-imports --no-logo

generated: install
	$(PY) -m tools.generate --check

generate: install ## make the files that are made from others: version, CRD of the chart, pages of docs/reference
	$(PY) -m tools.generate

format: install ## rewrite the code as `make check` wants it
	$(PY) -m ruff check --fix --exit-zero --quiet .
	$(PY) -m ruff format .

test: install programs model images ## all tests, those on a cluster beside the others
	$(PY) -m tests.lanes

test-fast: install ## only those without a model, a browser or patience
	$(PYTEST) -m "not ($(HEAVY))"

bench: install model ## measure against llama-server (compiles it once, about 4 minutes)
	@peer=$$($(PY) -m tools.peer) && LLAMA_SERVER_BIN="$$peer" $(PY) -m tests.bench $(BENCH_ARGS)

gpu: install model ## check and measure on this machine's GPU, about 8 minutes (tests/gpu/README.md)
	@peer=$$($(PY) -m tools.peer) && LLAMA_SERVER_BIN="$$peer" tests/gpu/run $(GPU_ARGS)

images: ## build both container images (ACCEL=cpu, cuda, rocm or vulkan; BASE=another base image)
	@$(PYTHON) -m tools.images build --accelerator $(ACCEL) --base "$(BASE)"

push: ## build both images and push them: make push REGISTRY=registry.example.com/me
	@$(PYTHON) -m tools.images push --accelerator $(ACCEL) --base "$(BASE)" \
		$(or $(REGISTRY),$(error REGISTRY is missing: make push REGISTRY=registry.example.com/me))

lock: ## compile requirements.lock anew (needs uv)
	uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
		--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock" \
		server/pyproject.toml operator/pyproject.toml requirements.in --output-file requirements.lock

clean: ## remove what was made in this folder (the cache stays)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis server/*.egg-info operator/*.egg-info
	find server operator tests tools -name __pycache__ -prune -exec rm -rf {} +

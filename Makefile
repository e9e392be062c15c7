# Each target is short. The work is in tools/. `make` alone lists the targets.
VENV       ?= .venv
PY         := $(VENV)/bin/python
PYTHON     ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done || echo python3)
HOST       ?= 127.0.0.1
PORT       ?= 8080
SERVE_ARGS ?=
DEMO_ARGS  ?=
PYTEST     := $(PY) -m pytest --durations=10
HEAVY      := model or browser or slow or cluster or more
FLOOR      := 90
COMPILE    := uv pip compile --quiet --universal --fork-strategy fewest --python-version 3.11 --generate-hashes \
	--no-emit-index-url --no-emit-find-links --custom-compile-command "make lock"
ACTIONLINT := github.com/rhysd/actionlint/cmd/actionlint@v1.7.12
ACCEL      ?= cpu
BASE       ?=

.DEFAULT_GOAL := help
.PHONY: demo help install model programs serve check layout lint types layers generated docs lint-workflows generate format test test-more test-fast bench fuzz soak gpu \
	images push bases lock web clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 16

install: ## make .venv from requirements.lock (compiles llama.cpp once, 6 minutes on two cores)
	@$(PYTHON) -m tools.install $(VENV)

model: install ## fetch the default model into the cache and print its path
	@$(PY) -m tools.model

programs: install ## get or compile what the tests need beside Python: Kubernetes, helm, a browser
	@$(PY) -m tools.system_packages test
	@$(PY) -m dev.localcluster prepare

demo: ## start Kubernetes here, install the chart, serve one model and chat with it (DEMO_ARGS=--once stops after that)
	@python=$$($(PYTHON) -m tools.buildtools) && exec "$$python" -m dev.localcluster.demo $(DEMO_ARGS)

serve: install ## serve the default model on http://127.0.0.1:8080 (SERVE_ARGS adds options)
	@model=$$($(PY) -m tools.model) && exec $(VENV)/bin/llamaserver -m "$$model" \
		--host $(HOST) --port $(PORT) -c 8192 -np 4 -cb --metrics $(SERVE_ARGS)

check: layout lint types layers generated docs ## check format, lint, types, layers, generated files and documents (make -k check: all of them)

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

docs: install ## build the documentation site into build/site; a broken link is an error
	@NO_MKDOCS_2_WARNING=1 $(PY) -m mkdocs build --strict

lint-workflows: ## check .github/workflows with actionlint (needs Go, and the network the first time)
	go run $(ACTIONLINT)

format: install ## rewrite the code as `make check` wants it
	$(PY) -m ruff check --fix --exit-zero --quiet .
	$(PY) -m ruff format .

test: install programs model images ## run all tests but those of test-more, in lanes at the same time
	$(PY) -m tests.lanes

test-more: install programs model ## run the tests that repeat others with more cases, 15 minutes on two cores
	$(PYTEST) -m more

test-fast: install ## run the tests that need no model, browser or cluster; print the coverage and fail below FLOOR percent
	$(PYTEST) -m "not ($(HEAVY))" --cov --cov-report=term:skip-covered --cov-fail-under=$(FLOOR)

fuzz: install model ## send 100,000 requests as products of maxima (tests/fuzz; FUZZ_ARGS="--seconds 300" ends earlier)
	@$(PY) -m tests.fuzz $(FUZZ_ARGS)

bench: install model ## measure against llama-server (compiles it once, 4 minutes on two cores)
	@peer=$$($(PY) -m tools.peer) && LLAMA_SERVER_BIN="$$peer" $(PY) -m tests.bench $(BENCH_ARGS)

soak: install model ## serve mixed traffic for an hour, and check that nothing leaks (SOAK_ARGS="--minutes 10")
	$(PY) -m tests.soak $(SOAK_ARGS)

gpu: install model ## check and measure on this machine's GPU, 8 minutes (tests/gpu/README.md)
	@peer=$$($(PY) -m tools.peer) && LLAMA_SERVER_BIN="$$peer" tests/gpu/run $(GPU_ARGS)

images: ## build both container images (ACCEL=cpu, cuda, rocm or vulkan; BASE=another base image)
	@$(PYTHON) -m tools.images build --accelerator $(ACCEL) --base "$(BASE)"

push: ## build and push both images: make push REGISTRY=registry.example.com/me
	@$(PYTHON) -m tools.images push --accelerator $(ACCEL) --base "$(BASE)" \
		$(or $(REGISTRY),$(error REGISTRY is missing: make push REGISTRY=registry.example.com/me))

bases: ## write bases.lock anew: the digests of the base images, as their registries have them now
	@$(PYTHON) -m tools.bases

lock: ## write requirements.lock and that of the client libraries anew (needs uv)
	$(COMPILE) server/pyproject.toml operator/pyproject.toml requirements.in --output-file requirements.lock
	$(COMPILE) tests/clients/requirements.in --output-file tests/clients/requirements.lock

web: install ## copy the libraries of the chat page, as tools/web locks them, into server/llamaserver/web/vendor (needs npm)
	@$(PY) -m tools.web_libraries

clean: ## remove everything that was made in this folder (the cache in ~/.cache stays)
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis server/*.egg-info operator/*.egg-info
	find server operator tests tools -name __pycache__ -prune -exec rm -rf {} +

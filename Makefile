.DEFAULT_GOAL := help
SHELL := /bin/sh

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
OLDEST := 1.23.0
PYTHON312 ?= python3.12
TORCH ?= torch==2.13.0
TALKERS ?= llama-cpp-python==0.3.36 onnxruntime-genai==0.18.0

MODEL ?=
BUDGET ?= weights:25%
BACKEND ?= auto
OUT ?= engines/$(basename $(notdir $(MODEL)))$(if $(filter-out auto onnxruntime,$(BACKEND)),-$(BACKEND))
SHAPES ?=
DIMS ?=
PRECISION ?=
DATA ?=
PYCUDA_WHEEL ?=
GROUPS ?=

# Tests and builds start many processes: each would compile all sources again.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: help setup engines try shipped test test-quick test-oldest prove prove-precision prove-scenarios test-aarch64 check bench bench-generation accuracy test-gpu bench-gpu gpu-kit gpu-kit-rehearsal peers docs wheel clean

help: ## Show this help
	@grep -hE '^[a-z0-9-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | while IFS="$$(printf '\t')" read -r name text; do printf '  make %-17s %s\n' "$$name" "$$text"; done
	@printf '\n  make engines MODEL=path/to/model.onnx BUDGET=64MiB OUT=engines/mine [SHAPES=name:1x3x224x224] [DIMS=batch=1] [DATA=inputs.npz] [PRECISION=int8]\n'

setup: $(READY) ## Make the virtual environment

$(READY): pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "make: $(PYTHON) can't make a virtual environment: install its venv module" >&2; exit 2; }
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

engines: $(READY) ## Build the zoo for BACKEND, swap each at BUDGET on real inputs, compare (or MODEL=…)
ifeq ($(MODEL),)
	$(BIN)/python -m swapnet models run --budget '$(BUDGET)' --backend '$(BACKEND)'
else
	$(BIN)/python -m swapnet build '$(MODEL)' -o '$(OUT)' --backend '$(BACKEND)' $(if $(SHAPES),--shapes '$(SHAPES)') $(if $(DIMS),--dims '$(DIMS)') $(if $(PRECISION),--precision '$(PRECISION)') $(if $(DATA),--data '$(DATA)')
	$(if $(filter auto onnxruntime,$(BACKEND)),$(BIN)/python -m swapnet bench '$(OUT)' --budget '$(BUDGET)' --compare)
endif

try: $(READY) ## Try MODEL=path/to/model.onnx as it is: plan, build, swap, compare, in one line
	$(BIN)/python -m swapnet try '$(MODEL)' $(if $(SHAPES),--shapes '$(SHAPES)') $(if $(DIMS),--dims '$(DIMS)') $(if $(DATA),--data '$(DATA)')

test: $(READY) ## All tests
	$(BIN)/python -m pytest -n auto --dist loadgroup

test-quick: $(READY) ## Tests that take less than a minute together
	$(BIN)/python -m pytest -m 'not slow' -q -n auto --dist loadgroup

test-oldest: ## The quick tests on the oldest ONNX Runtime that is supported
	@test -x $(VENV)-oldest/bin/python || $(PYTHON) -m venv $(VENV)-oldest
	$(VENV)-oldest/bin/python -m pip install --quiet --disable-pip-version-check -e '.[dev]' 'onnxruntime==$(OLDEST)'
	$(VENV)-oldest/bin/python -m pytest -m 'not slow' -q -n auto --dist loadgroup

shipped: $(READY) ## Try ten models that packages ship, and write docs/shipped.md
	$(BIN)/python -m tests.shipped.table

prove: $(READY) ## Equality and memory of the zoo at many budgets, under the kernel's limit: docs/results.md
	$(BIN)/python -m tests.evidence.prove

prove-precision: $(READY) ## The same in float16 and int8: docs/quantization-results.md
	$(BIN)/python -m tests.evidence.prove_precision

prove-scenarios: $(READY) ## Three applications under one budget each, over two hours: docs/multi-dnn-results.md
	$(BIN)/python -m tests.evidence.prove_scenarios

test-aarch64: $(READY) ## Windows, three models and quick tests on an emulated aarch64 (needs root: tests/aarch64/check.sh)
	PYTHON=$(BIN)/python tests/aarch64/check.sh

check: $(READY) ## Lint, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY) ## The suite: the zoo at five budgets, peers, ablations; results/, resumable
	$(BIN)/python -m tests.evidence.suite

bench-generation: $(READY) ## Language models at five budgets, and peers: docs/language-models.md; resumable
	$(BIN)/python -m tests.evidence.generation

accuracy: $(READY) ## Lower precision against float32, on inputs that did not calibrate it: docs/accuracy.md
	$(BIN)/python -m tests.evidence.accuracy --page docs/accuracy.md

test-gpu: $(READY) ## The tests that need a CUDA GPU (pip install pycuda and a runtime library first)
	SWAPNET_REQUIRE_GPU=1 $(BIN)/python -m pytest -m gpu tests/gpu

bench-gpu: $(READY) ## Unswapped and swapped on this GPU, per weight style: the table in docs/gpu.md
	$(BIN)/python -m tests.evidence.bench_gpu --backend '$(BACKEND)' --page docs/gpu.md

gpu-kit: $(READY) ## Pack gpu-kit/ for a GPU machine without network (PYCUDA_WHEEL=path, GROUPS=code,core)
	$(BIN)/python -m tests.gpu_kit.pack $(if $(PYCUDA_WHEEL),--pycuda '$(PYCUDA_WHEEL)') $(if $(GROUPS),--groups '$(GROUPS)')

gpu-kit-rehearsal: $(READY) ## Run the packed kit in an empty environment of Python 3.12, on a simulated GPU
	$(BIN)/python -m tests.gpu_kit.rehearse --python '$(PYTHON312)'

peers: ## The environment of accelerate, llama.cpp (compiled) and onnxruntime-genai: .venv-peers
	@test -x $(VENV)-peers/bin/python || $(PYTHON) -m venv $(VENV)-peers
	$(VENV)-peers/bin/python -m pip install --quiet --disable-pip-version-check '$(TORCH)'
	$(VENV)-peers/bin/python -m pip install --quiet --disable-pip-version-check -e '.[peers]'
	$(VENV)-peers/bin/python -m pip install --quiet --disable-pip-version-check $(TALKERS)

docs: $(READY) ## The pages of docs/ as a site: open site/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

wheel: $(READY) ## The wheel in dist/, tried in an empty environment
	$(BIN)/python -m tests.evidence.wheel

clean: ## Remove engines, results, the site and the virtual environment
	rm -rf engines results site gpu-kit $(VENV) $(VENV)-oldest $(VENV)-peers

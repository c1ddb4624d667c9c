# What people type. Everything runs in .venv, which `make setup` makes.
.PHONY: help setup demo test check docs constraints clean
.DEFAULT_GOAL := help

help: ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 14

setup: ## system packages (Debian, Ubuntu), .venv, a kernel for the test guest
	@scripts/setup

demo: setup ## a machine's life on libvirt, or on the fake where libvirt cannot run
	@scripts/with-libvirt .venv/bin/python examples/demo.py $(ARGS)

test: setup ## all tests, on each core; ARGS="-k word" goes to pytest
	@.venv/bin/python -m pytest -n auto --dist loadfile $(ARGS)

check: setup ## style, format and types
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy

docs: setup ## the documentation, into site/
	.venv/bin/mkdocs build --strict

constraints: ## write constraints.txt anew, from the newest versions
	@scripts/constraints

clean: ## remove what was made, .venv too
	rm -rf .venv site dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

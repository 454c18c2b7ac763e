# The verbs that people try first. Each works on a bare Debian or Ubuntu machine: what is missing is
# installed by build/bootstrap.sh (as root; otherwise it names what to install).

SHELL := /bin/sh
VENV := .venv/bin
SOURCES := $(shell find app policies -name "*.py" -o -name "*.toml") build/app.spec \
	build/requirements-binary.txt
ARGS ?=

.PHONY: help demo test test-all test-kill test-vm test-servers lint binary bench schema clean release reproduce

help:
	@echo 'make demo     a whole cycle on a scratch volume, with the proof, in a few minutes'
	@echo 'make test     every test; those that need root are skipped without it (ARGS="-k name" for some)'
	@echo 'make test-kill  500 blows to processes of ours at any instant; STILLFRAME_TEST_KILL says how many'
	@echo 'make test-all  every case of every table, on every server, hours long; make test runs a part of the long ones'
	@echo 'make test-vm  all that is shown on virtual machines, with the release; make test runs the short form of it'
	@echo 'make test-servers  each server 20 times on each filesystem; make test runs the short form of it'
	@echo 'make lint     ruff, mypy, import-linter, shellcheck, and four shells over the generated scripts'
	@echo 'make binary   dist/app, one file, checked against the source tree'
	@echo 'make release  dist/release: one file for any Linux with glibc 2.17, packages, SBOM, checksums'
	@echo 'make reproduce  build the release once more, offline, and compare every byte'
	@echo 'make bench    how long writers stand still, against fsfreeze and the extension; each server; the start (ARGS=--keep, --quick)'
	@echo 'make schema   write policies/policy.schema.json'
	@echo 'make clean    remove what the others made'

demo: dist/app
	@build/bootstrap.sh demo
	@$(VENV)/python -m tests.demo dist/app

test: dist/app
	@build/bootstrap.sh
	@$(VENV)/python -m pytest $(ARGS)

test-kill:
	@build/bootstrap.sh test
	@STILLFRAME_TEST_KILL=$${STILLFRAME_TEST_KILL:-500} $(VENV)/python -m pytest -q -s $(ARGS) tests/matrix

test-vm: dist/release/app
	@build/bootstrap.sh
	@STILLFRAME_TEST_VM=full STILLFRAME_TEST_BINARY=dist/release/app $(VENV)/python -m pytest -m vm $(ARGS) tests/vm

test-all: dist/app
	@build/bootstrap.sh binary lint servers test
	@STILLFRAME_TEST=full STILLFRAME_TEST_VM=full STILLFRAME_TEST_SERVERS=full STILLFRAME_TEST_STANDINS=full \
		$(VENV)/python -m pytest $(ARGS)

test-servers: dist/app
	@build/bootstrap.sh binary lint servers test
	@STILLFRAME_TEST=full STILLFRAME_TEST_SERVERS=full $(VENV)/python -m pytest $(ARGS) tests/servers

lint:
	@build/bootstrap.sh lint
	@build/lint.sh

binary: dist/app
	@$(VENV)/python build/smoke.py dist/app

dist/app: $(SOURCES)
	@build/bootstrap.sh binary
	@build/binary.sh

release:
	@build/bootstrap.sh release
	@build/release.sh
	@$(VENV)/python build/smoke.py dist/release/app

dist/release/app: $(SOURCES)
	@build/bootstrap.sh release
	@build/release.sh

reproduce:
	@build/reproduce.sh

bench:
	@build/bootstrap.sh servers test
	@$(VENV)/python -m tests.bench $(ARGS)
	@STILLFRAME_TEST_SERVERS=full $(VENV)/python -m tests.servers.bench $(filter --keep --quick,$(ARGS))
	@[ ! -x dist/release/app ] || $(VENV)/python -m tests.release.measure

schema:
	@build/bootstrap.sh lint
	@$(VENV)/app schema >.build/schema.json && mv .build/schema.json policies/policy.schema.json

clean:
	rm -rf .build .venv dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache *.egg-info
	find app tests -name __pycache__ -type d -prune -exec rm -rf {} +

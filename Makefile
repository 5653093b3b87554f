# Everything runs from a fresh clone with Python 3.11 or newer: the first target installs what it needs into .venv.
PYTHON ?= python3
VENV = .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# What `make pythons` tries; each where it is on the PATH, in an environment of its own.
PYTHONS = 3.11 3.12 3.13
PIP := $(BIN)/python -m pip --quiet --disable-pip-version-check
# What a run needs comes first, so that the engine compiles while the rest is installed.
NEEDED := import tomllib; print(*tomllib.load(open("pyproject.toml", "rb"))["project"]["dependencies"], sep="\n")

.PHONY: run test pythons check coverage laws paper bench golden docs docs-test links pictures fuzz kills mutants verify
run: $(READY)    ## simulate the main scenario
	@$(BIN)/afdsim run scenarios/step3_2a2f_4k.yaml

test: $(READY)   ## the whole suite but what is marked slow, paper or bench
	@$(BIN)/pytest -n auto $(ARGS)

pythons:         ## the suite by every Python that is here (PYTHONS=...), each in a .venv of its own; before a release
	@tried= failed= ; for version in $(PYTHONS); do \
	  command -v python$$version >/dev/null || { echo "python$$version is not here: not tried" >&2; continue; } ; \
	  tried="$$tried $$version" ; echo "Python $$version" >&2 ; \
	  $(MAKE) --no-print-directory test VENV=.venv-$$version PYTHON=python$$version || failed="$$failed $$version" ; \
	done ; \
	test -n "$$tried" || { echo "none of $(PYTHONS) is here; name others: make pythons PYTHONS=3.14" >&2; exit 2; } ; \
	test -z "$$failed" || { echo "failed with Python$$failed" >&2; exit 1; } ; echo "passed with Python$$tried" >&2

check: $(READY)  ## style, types and wings
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy --strict afdsim
	@$(BIN)/lint-imports --no-logo

coverage: $(READY) ## branches of afdsim/ that the suite runs: rooms below 100 %, and an error under 95 % of all
	@$(BIN)/pytest -n auto --cov --cov-branch --cov-report=term:skip-covered --cov-fail-under=95 $(ARGS)

laws: $(READY)   ## the laws and the state machines again, with many more examples
	@$(BIN)/pytest -n auto tests/laws tests/engine/test_*_machine.py --hypothesis-profile=laws $(ARGS)

fuzz: $(READY)   ## 20,000 mutated inputs of every kind that is read; counts of what became of them
	@$(BIN)/python -m tests.fuzz $(ARGS)

kills: $(READY)  ## 60 kills of commands at work (INT, TERM, KILL; parent, group, worker); counts, and every law that broke
	@$(BIN)/python -m tests.kills $(ARGS)

mutants: $(READY) ## small changes of the code and which of them no test notices: a sample of every module (20 minutes)
	@$(BIN)/python -m tests.mutants --laws --sample 10 $(ARGS)

paper: $(READY)  ## every figure of README, MODEL and docs made anew, and docs/verdicts.md; ARGS=--all for the long ones
	@$(BIN)/python -m verdicts $(ARGS)

bench: $(READY)  ## speed of the engines, then event counts
	@$(BIN)/afdsim bench
	@$(BIN)/pytest -m bench -rA $(ARGS)

golden: $(READY) ## write the golden numbers of the shipped scenarios anew; say why in CHANGELOG.md
	@AFDSIM_GOLDEN=1 $(BIN)/pytest -q tests/test_golden.py

docs: $(VENV)/.docs ## the documentation as a site: docs/_build/html; every warning is an error, and nothing is fetched
	@$(BIN)/python -m sphinx -b html -n -W --keep-going -q docs docs/_build/html
	@echo "docs/_build/html/index.html" >&2

docs-test: $(READY) ## every block of the documentation, those that take long too
	@$(BIN)/pytest -m "slow or not slow" tests/test_docs.py $(ARGS)

links: $(VENV)/.docs ## links to other sites, which needs a network; links within are checked by `make docs` and the tests
	@$(BIN)/python -m sphinx -b linkcheck -q docs docs/_build/links

pictures: $(READY) ## those of README.md and the documentation, drawn from runs (two minutes)
	@$(BIN)/python docs/pictures.py

$(VENV)/.docs: $(READY)
	@$(PIP) install --editable '.[docs]'
	@touch $@

verify: $(READY) ## checks against closed forms and other simulators, and docs/verification.md (.json) with their pictures anew
	@$(BIN)/python -c 'import ciw' 2>/dev/null || $(PIP) install --editable '.[verification]'
	@$(BIN)/python -m verification -o docs $(ARGS)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "afdsim needs Python 3.11 or newer; try make PYTHON=python3.12")'
	@echo "installing afdsim into $(VENV) (a minute, once)" >&2
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -c '$(NEEDED)' | $(PIP) install -r /dev/stdin
	@{ PYTHONPATH=. $(BIN)/python -m afdsim run small --engine kernel >/dev/null 2>&1 & } ; \
	$(PIP) install --editable '.[all,dev]' && wait
	@touch $@

# Two commands matter: `make run` and `make test`. Needs Python >= 3.11, make and the package registries.

PYTHON ?= $(shell for p in python3 python3.15 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet
# setuptools warns that folders named like a package may hide it; ours lie one level below such folders.
EDITABLE := PYTHONWARNINGS=ignore $(PIP) --no-deps --no-build-isolation -e .
LOCKED := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --upgrade
IMAGE := deploy/container

.PHONY: help run test lint types check soak matrix bench docs pictures site lock dist clean

help:                    ## this list
	@sed -n 's/^\([a-z]*\):[^#]*## \(.*\)/make \1|\2/p' Makefile | while IFS='|' read -r name what; do \
		printf '%-12s %s\n' "$$name" "$$what"; done

run: .venv/.run          ## the main job in ten seconds: host, jobs and a local PostHog receiver
	@$(BIN)/lifebeat demo

test: .venv/.dev         ## every test but the long ones, and those of engines and deploy/
	$(BIN)/python -m pytest -n 5 --dist loadgroup -m "not soak" --ignore tests/deploy --ignore tests/engines

lint: .venv/.dev         ## the linter and the formatter, in seconds
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/.dev        ## both type checkers
	$(BIN)/mypy -p lifebeat -p lifebeat_jobs
	$(BIN)/pyright

check: lint types site   ## these three, the engines on their servers, and deploy/ with the tools of its fields
	$(BIN)/python -m pytest -n 3 --dist loadfile -m "not soak" tests/engines tests/deploy

soak: .venv/.dev         ## the long runs: hundreds of kills, thousands of broken files
	$(BIN)/python -m pytest -m soak -s --timeout 3600

matrix: .venv/.dev       ## the wheel on each Python from 3.11 to 3.15, and with the ends of its dependencies' ranges
	PYTHONPATH=tests/support $(BIN)/python tests/matrix/run.py

bench: .venv/.dev        ## measured beside what people would use instead; writes docs/benchmarks.md
	$(BIN)/python benchmarks/run.py

docs: .venv/.dev         ## write the generated pages and schemas again
	PYTHONPATH=tests/support $(BIN)/python tests/generated/generate.py

pictures: .venv/.dev     ## the pictures of the page, where Debian's Chromium and its driver are installed
	PYTHONPATH=tests/support unshare --map-root-user --mount $(BIN)/python tests/generated/screenshots.py

site: .venv/.dev         ## the documentation as a site, in build/site/html; a link that leads nowhere is an error
	$(BIN)/python deploy/site/build.py

lock: .venv/.pip         ## renew the locks: the development tools' and the image's
	$(PIP) uv
	$(LOCKED) pyproject.toml --group check -o dev.lock
	$(LOCKED) $(IMAGE)/build.in -o $(IMAGE)/build.lock
	$(LOCKED) pyproject.toml -o $(IMAGE)/requirements.lock
	$(LOCKED) pyproject.toml --extra procrastinate -o $(IMAGE)/requirements-procrastinate.lock
	$(LOCKED) pyproject.toml --extra celery -o $(IMAGE)/requirements-celery.lock

dist: .venv/.pip         ## sdist, wheel, bill of materials and sums: the same bytes for the same commit
	$(PIP) $$(sed -n 's/^\(build==[0-9.]*\).*/\1/p' dev.lock)
	$(BIN)/python deploy/release/dist.py

clean:                   ## remove what these commands made here
	rm -rf .venv build dist *.egg-info scheduler/*.egg-info .pytest_cache .mypy_cache .ruff_cache .pythons

.venv/.pip:
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 found; install one, or say which: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv
	@touch $@

.venv/.run: pyproject.toml | .venv/.pip
	PYTHONWARNINGS=ignore $(PIP) -e .
	@touch $@

.venv/.dev: pyproject.toml dev.lock | .venv/.pip
	$(PIP) --no-deps --require-hashes -r dev.lock
	$(EDITABLE)
	@touch $@ .venv/.run

# Two commands matter: `make run` and `make test`. Needs Python >= 3.11, make and the package registries.

PYTHON ?= $(shell for p in python3 python3.14 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := .venv/bin
# setuptools warns that folders named like a package may hide it; ours lie one level below such folders.
EDITABLE := PYTHONWARNINGS=ignore $(BIN)/python -m pip install --quiet -e .

.PHONY: run test check soak matrix bench bench-long docs dist clean

run: .venv/.run          ## the main job in ten seconds: host, jobs and a local PostHog receiver
	@$(BIN)/lifebeat demo

test: .venv/.dev         ## every test but the long ones
	$(BIN)/python -m pytest -n 4 --dist loadgroup -m "not soak" --ignore tests/deploy

check: .venv/.dev        ## linters, type checkers, and the checks of deploy/ with the tools of their fields
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy -p lifebeat -p lifebeat_jobs
	$(BIN)/pyright
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not soak" tests/deploy

soak: .venv/.dev         ## the long runs: hundreds of kills, thousands of broken files
	$(BIN)/python -m pytest -m soak -s --timeout 3600

matrix: .venv/.dev       ## the wheel on each Python that is here, with old and new PostHog SDKs
	$(BIN)/python tests/matrix.py

bench: .venv/.bench      ## measured beside what people would use instead; writes docs/benchmarks.md
	$(BIN)/python benchmarks/run.py

bench-long: .venv/.bench ## the SDKs' real waits at a stop, and jobs a second apart: twenty minutes, kept for the page
	$(BIN)/python benchmarks/run.py --long

docs: .venv/.dev         ## write the generated pages and schemas again
	$(BIN)/python tests/generated/generate.py

dist: .venv/.pip         ## sdist, wheel, bill of materials and sums: the same bytes for the same commit
	$(BIN)/python -m pip install --quiet 'build>=1.2'
	$(BIN)/python deploy/release/dist.py

clean:
	rm -rf .venv build dist *.egg-info scheduler/*.egg-info .pytest_cache .mypy_cache .ruff_cache

.venv/.pip:
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 found; install one, or say which: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	@touch $@

.venv/.run: pyproject.toml | .venv/.pip
	$(EDITABLE)
	@touch $@

.venv/.dev: pyproject.toml | .venv/.pip
	$(EDITABLE) --group check
	@touch $@ .venv/.run

.venv/.bench: pyproject.toml | .venv/.pip
	$(EDITABLE) --group bench
	@touch $@ .venv/.run

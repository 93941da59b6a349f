# `make demo` and `make test` do all the set-up on a fresh machine.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin

.PHONY: setup demo test bench lint clean

setup: $(VENV)/ready

# torch first and pinned: asked for as a dependency, it would come with gigabytes of CUDA packages.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[demo,peft,ray]' pytest pytest-xdist ruff mypy types-PyYAML
	touch $@

demo: setup
	$(RUN)/muki demo

# Tiny models: one thread for each test process beats two processes that fight for the cores.
test: setup
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest --numprocesses auto --dist loadgroup

# Ratios against the schedule in which the method is usually run; DATA holds <set>/{train,test}.jsonl.gz.
bench: setup
	$(RUN)/python benchmarks/scoring.py --data $(DATA) --memory --output benchmarks/results/scoring.json

lint: setup
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

clean:
	rm -rf $(VENV) muki-demo

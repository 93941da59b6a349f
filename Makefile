# `make demo` and `make test` do all the set-up on a fresh machine.

PYTHON ?= python3
VENV ?= .venv
RUN = $(VENV)/bin

.PHONY: setup demo test browser bench docs lint clean

setup: $(VENV)/ready

# torch first and pinned. On Linux, PyPI's torch brings gigabytes of CUDA packages; for the CPU build:
# make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt torch==2.13.0 \
		$(if $(TORCH_INDEX),--index-url $(TORCH_INDEX))
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		--editable '.[demo,onnx,peft,ray]' pytest pytest-xdist ruff mypy types-PyYAML
	touch $@

demo: setup
	$(RUN)/muki demo

# Tiny models: one thread for each test process beats two processes that fight for the cores.
test: setup
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest --numprocesses auto --dist loadgroup

# The report in a real Chromium: one that is installed here, or else that of `playwright install chromium`.
browser: setup
	$(RUN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt \
		playwright axe-playwright-python
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -m browser

# Ratios against the schedule in which the method is usually run: make bench DATA=DIR, which holds
# <set>/{train,test}.jsonl.gz for google_snippets and ag_news. An hour and a half.
DATE := $(shell date +%F)
bench: setup
	for set in google_snippets ag_news; do $(RUN)/python benchmarks/scoring.py --data $(DATA) --set $$set \
		--output benchmarks/results/scoring-$$set-$(DATE).json || exit 1; done
	OMP_NUM_THREADS=1 $(RUN)/python benchmarks/score_and_train.py --data $(DATA) \
		--output benchmarks/results/score-and-train-google_snippets-$(DATE).json
	$(RUN)/python benchmarks/memory.py bench-work --output benchmarks/results/memory-$(DATE).json

docs: setup
	$(RUN)/python docs/reference.py

lint: setup
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

clean:
	rm -rf $(VENV) muki-demo bench-work

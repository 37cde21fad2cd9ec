# `make demo` runs the main job on the embedded data; `make check` is the quick look before a commit (ruff, mypy, the fast
# tests); `make test` is everything. Each sets up what it needs in .venv first. PYTHON picks another interpreter.

PYTHON ?= python3
VENV := .venv
BENCH := $(VENV)/bin/bench
PIPELINES := yolo-clip,detr-clip,ssd-clip,reclip,mdetr,clipvg,transvg,dynamic-mdetr,hivg,oneref,diffusion,rl-refine
SLOW := seg-clip,clip-pooling
BASELINES := label-clip,label-only,largest-proposal,random-proposal,fixed-box,centre-box,whole-image

.PHONY: demo results test check lint fast gpu lock clean

# Into build/, which git ignores: a run from a changed checkout would be left out of the leaderboard.
demo: $(VENV)/.run
	$(BENCH) run --pipeline $(PIPELINES),$(BASELINES) --split shapes-val --fresh --results build/demo
	$(BENCH) leaderboard --results build/demo
	@cat build/demo/LEADERBOARD.md
	@echo "next, for data of your own: $(BENCH) data sheet file:PATH.jsonl --out sheet.png (docs/own-data.md)"

# Every row of results/, with the two pipelines that take a minute or two.
results: $(VENV)/.run
	$(BENCH) run --pipeline $(PIPELINES),$(BASELINES),$(SLOW) --split shapes-val --fresh
	$(BENCH) leaderboard

# Two workers, one thread each: threads of several workers only wait for each other. A worker that is lost ends the run,
# which names its test: a new one has been seen to wait for ever.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --max-worker-restart 0

test: lint
	$(PYTEST) --dist loadfile

check: $(VENV)/.dev
	@$(MAKE) --no-print-directory --jobs 2 --output-sync lint fast

lint: $(VENV)/.dev
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

fast: $(VENV)/.dev
	$(PYTEST) -m "not (slow or browser or gpu or real)"

# Every network at full size on this machine's GPU, in ten minutes. Without a network: PIP_NO_INDEX=1 PIP_FIND_LINKS=wheels.
gpu: $(VENV)/.dev
	$(VENV)/bin/python -m tools.benchmarks.gpu_suite

# Every package at a pinned version and hash; the build tools are among them, hence no isolation.
PIP := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check

$(VENV)/.run: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11 to 3.13 is needed; name one with PYTHON=python3.12"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(PIP) --require-hashes -r requirements.txt
	$(PIP) --no-deps --no-build-isolation -e .
	touch $@

$(VENV)/.dev: $(VENV)/.run requirements-dev.txt
	$(PIP) --require-hashes -r requirements-dev.txt
	touch $@

# For maintainers: pin anew, for every platform and Python, without naming an index.
LOCK := uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header \
	--extra yolo --extra hub --group install

lock:
	$(LOCK) --extra demo --group dev -o requirements-dev.txt
	$(LOCK) -c requirements-dev.txt -o requirements.txt

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

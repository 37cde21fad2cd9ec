# Two doors: `make demo` runs the main job on the embedded data, `make test` passes the checks and the tests.
# Both set up what they need in .venv first. PYTHON picks another interpreter (3.11 to 3.13).

PYTHON ?= python3
VENV := .venv
BENCH := $(VENV)/bin/bench
PIPELINES := yolo-clip,detr-clip,ssd-clip,reclip,mdetr,clipvg
SLOW := seg-clip,clip-pooling
BASELINES := label-clip,label-only,largest-proposal,random-proposal,fixed-box,centre-box,whole-image

.PHONY: demo results test check lock clean

# Into build/, which git ignores: a run from a changed checkout would be left out of the leaderboard.
demo: $(VENV)/.ready
	$(BENCH) run --pipeline $(PIPELINES),$(BASELINES) --split shapes-val --fresh --results build/demo
	$(BENCH) leaderboard --results build/demo
	@cat build/demo/LEADERBOARD.md

# Every row of results/, with the two pipelines that take a minute or two.
results: $(VENV)/.ready
	$(BENCH) run --pipeline $(PIPELINES),$(BASELINES),$(SLOW) --split shapes-val --fresh
	$(BENCH) leaderboard

# Two workers, one thread each: threads of several workers only wait for each other.
test: check
	OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest -n 2 --dist loadfile

check: $(VENV)/.ready
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

# Every package at a pinned version and hash; the build tools are among them, hence no isolation.
$(VENV)/.ready: requirements.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || \
		{ echo "Python 3.11 to 3.13 is needed; name one with PYTHON=python3.12"; exit 1; }
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation -e .
	touch $@

# For maintainers: pin anew, for every platform and Python, without naming an index.
lock:
	uv pip compile pyproject.toml --universal --python-version 3.11 --generate-hashes --no-header \
		--extra yolo --extra hub --extra demo --extra dev -o requirements.txt

clean:
	rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis

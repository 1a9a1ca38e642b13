# Two commands do everything: `make demo` and `make test`. PIP_ARGS goes to pip as it is (an index of CPU or CUDA builds, say).
PYTHON ?= python3
PIP_ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
export FT_HOME ?= $(CURDIR)/.ft

.PHONY: bench-data bench-gpu bench-plan bench-train demo test test-slow test-faults check lint ui lock bench clean debian

$(READY): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV) ..."
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt "torch==2.13.0"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_ARGS) -c constraints.txt -e '.[worker,postgres,dev]'
	@touch $@

demo: $(READY)
	@$(BIN)/ft run demo

# Side by side on up to four cores; most tests wait for one process at a time.
test: $(READY)
	@$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadgroup

# The longer ones: two ranks at each ZeRO stage, sweeps, SIGTERM, the best checkpoint.
test-slow: $(READY)
	@$(BIN)/python -m pytest -m slow -n auto --maxprocesses 2 --dist loadgroup

# Kills and breaks running trainings, one after the other; FT_FAULT_SEED chooses where.
test-faults: $(READY)
	@$(BIN)/python -m pytest -m faults -s

check: $(READY) debian lint test test-slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

ui: $(READY)
	@mkdir -p $(FT_HOME)/dagster_home
	@test -f $(FT_HOME)/dagster_home/dagster.yaml || cp deploy/local/dagster.yaml $(FT_HOME)/dagster_home/
	DAGSTER_HOME=$(FT_HOME)/dagster_home $(BIN)/dagster dev

# For tests that drive real programs: Chromium looks at the UI and the report, PostgreSQL keeps Dagster's records, nginx is the
# proxy before its webserver. Where one cannot be had, its tests skip with a message. RUNLEVEL=1: nothing is started as a service.
PROGRAMS := chromium chromedriver nginx initdb
PACKAGES := chromium chromium-driver fonts-dejavu-core nginx-light postgresql
debian: export PATH := $(PATH):/usr/sbin:$(lastword $(sort $(wildcard /usr/lib/postgresql/*/bin)))
debian:
	@(for name in $(PROGRAMS); do command -v $$name >/dev/null || exit 1; done) || { test "$$(id -u)" = 0 && command -v apt-get >/dev/null \
	  && apt-get update -qq && RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $(PACKAGES) >/dev/null; } \
	  || echo "not all of $(PACKAGES) can be had here: their tests will be skipped"

bench: $(READY)
	$(BIN)/python -m benchmarks.sft_overhead

bench-data: $(READY)
	$(BIN)/python -m benchmarks.data_pipeline

bench-train: $(READY)
	$(BIN)/python -m benchmarks.training

bench-plan: $(READY)
	$(BIN)/python -m benchmarks.plan_memory $(BENCH_ARGS)

# On a machine with an NVIDIA GPU; BENCH_ARGS goes to it as it is (`--cases "8B:lora"`, say).
bench-gpu: $(READY)
	$(BIN)/python -m benchmarks.gpu_training $(BENCH_ARGS)

# The exact versions that were tested, without torch's CPU or CUDA suffix.
lock: $(READY)
	$(BIN)/python -m pip freeze --exclude-editable | sed 's/+cpu//' | grep -v -i -E '^(pip|setuptools|wheel)==' > constraints.txt

clean:
	rm -rf $(VENV) .ft build *.egg-info

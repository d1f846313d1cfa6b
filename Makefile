# make demo      train MOL on synthetic clips of real faces, score it on unseen people, read a video (4 to 6 minutes on 2 cores)
# make loso      a data set's folders and sheets → manifest → cache → leave-one-subject-out → report, on synthetic clips
# make test      lint, types and tests, as the CI runs them
# make test-processors  the tests that compute, again under each instruction set and with one thread and two (an hour)
# make torture   odd files, kills, full disks and fuzzed operators, with counts and reproducers (half an hour)
# make docs      the documentation site in build/docs: guides, tutorials, reference
# make bench     throughput beside the published loop and the compiled reference
# make sanitize  the CPU kernels' tests under AddressSanitizer and UndefinedBehaviorSanitizer
# make gpu       on a machine with a GPU: test, measure, sanitize within GPU_MINUTES, into GPU_OUT; needs no network and no .venv
# All but the last set everything up by themselves, in .venv.

PYTHON ?= python3
# With an NVIDIA GPU this brings the CUDA build on Linux; set TORCH to choose another.
TORCH ?= torch==2.13.0
VENV ?= .venv
BIN := $(VENV)/bin
CPP = $(shell git ls-files 'csrc/*.h' 'csrc/*.cpp' 'csrc/*.cuh' 'csrc/*.cu' 'tests/*.h' 'tests/*.cuh' 'tests/*.cpp' 'tests/*.cu')

.PHONY: install demo demo-long loso test test-all test-processors torture lint format docs bench sanitize gpu clean

# The kernels again where a source has changed (seconds).
install: $(VENV)/.installed
	@$(BIN)/python setup.py --quiet build_ext --inplace

$(VENV)/.installed: pyproject.toml setup.py Makefile
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10) and "Python 3.10 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip "setuptools>=77" wheel ninja
	$(BIN)/python -m pip install --quiet "$(TORCH)"
# Pip keeps one core busy, so the kernels are compiled meanwhile; `install` puts them in place.
	$(BIN)/python csrc/build.py & kernels=$$!; MOLKERNELS_CPU=0 MOLKERNELS_CUDA=0 $(BIN)/python -m pip install --quiet \
	  --no-build-isolation --config-settings editable_mode=compat --editable ".[dev]"; packages=$$?; \
	wait $$kernels && exit $$packages
	@touch $@

demo: install
	$(BIN)/mol demo

demo-long: install
	$(BIN)/mol demo --long

# Two of SMIC's sixteen people held out, a few steps each: it shows the way, not what the network can do.
loso: install
	$(BIN)/mol synth --layout smic
	$(BIN)/mol prepare --dataset smic --root data/smic
	$(BIN)/mol check-data manifests/smic --protocol megc2019
	$(BIN)/mol extract manifests/smic
	$(BIN)/mol loso cache/smic --protocol megc2019 --sets '[smic]' --folds 1-2 --steps 20 --batch-size 4 --run runs/smic --resume
	$(BIN)/mol report runs/smic

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/clang-format --dry-run --Werror $(CPP)
	$(BIN)/mypy

# One thread a worker: two workers on two cores then do not fight over them.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu" -n 2 --dist worksteal

test-all: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not gpu" -n 2 --dist worksteal

# What a float32 run rounds to differs with the processor; no test may depend on it.
test-processors: install
	$(BIN)/python tests/processors.py

# Drawn at random, so no part of the tests. What fails is repeated with `python -m torture --repeat FILE`.
torture: install
	$(BIN)/python -m torture $(TORTURE)

format: install
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/clang-format -i $(CPP)

# Warnings are errors. The site needs no network, neither to be built nor to be read.
docs: install
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going -d build/doctrees -c docs . build/docs
	@echo build/docs/index.html

bench: install
	$(BIN)/python -m pytest bench/

# Python itself is not built with the sanitizers, so their runtimes come first by hand; it leaks on purpose at exit.
sanitize: install
	$(BIN)/python csrc/build.py --sanitize
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" ASAN_OPTIONS=detect_leaks=0 \
	UBSAN_OPTIONS=print_stacktrace=1 OMP_NUM_THREADS=1 MOLKERNELS_LIBRARIES=build/sanitize \
	$(BIN)/python -m pytest -m "not slow and not gpu" -k "[cpu and not compiles and not opcheck" \
	  tests/molkernels/test_ops.py tests/molkernels/test_properties.py

GPU_OUT ?= build/gpu
GPU_MINUTES ?= 9

gpu:
	$(PYTHON) -m bench.gpu $(GPU_OUT) --minutes $(GPU_MINUTES)

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

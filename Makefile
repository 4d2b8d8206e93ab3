# The two commands of the README, and the developers' ones. Each sets up .venv as it needs it.
#
#   make train    trains the example; make test    runs the tests
#   make denoise  trains the second example, on photographs
#   make lint | format | bench | wheel | clean
#
# PYTHON=python3.12 chooses the interpreter (3.11 or later); ARGS="..." is handed to the command
# that is run.

PYTHON ?= python3
ARGS ?=

VENV := .venv
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --prefer-binary
VERSION := $(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null)

CXX_DIRECTORIES := $(wildcard core ffi cpu cuda bindings)
CXX_FILES := $(shell find $(CXX_DIRECTORIES) -name '*.h' -o -name '*.cc' -o -name '*.cu')
CMAKE_FILES := CMakeLists.txt $(wildcard cuda/*.cmake)
PYTHON_DIRECTORIES := $(wildcard jax_na tests examples benchmarks bazel docs .ci)

.PHONY: help train denoise test bench lint format wheel clean
.DELETE_ON_ERROR:

help:
	@sed -n '1,/^$$/s/^# \{0,1\}//p' Makefile

train: $(VENV)/examples.stamp
	$(VENV)/bin/python examples/train_digits.py $(ARGS)

denoise: $(VENV)/examples.stamp
	$(VENV)/bin/python examples/denoise.py $(ARGS)

test: $(VENV)/test.stamp
	$(VENV)/bin/pytest --numprocesses auto --maxprocesses 4 --dist loadgroup $(ARGS)

bench: $(VENV)/examples.stamp
	$(VENV)/bin/python -m benchmarks.cpu $(ARGS)

lint: $(VENV)/test.stamp $(VENV)/dev.stamp
	$(VENV)/bin/ruff check $(PYTHON_DIRECTORIES)
	$(VENV)/bin/ruff format --check $(PYTHON_DIRECTORIES)
	$(VENV)/bin/pyright
	$(VENV)/bin/clang-format --dry-run -Werror $(CXX_FILES)

format: $(VENV)/dev.stamp
	$(VENV)/bin/ruff check --fix $(PYTHON_DIRECTORIES)
	$(VENV)/bin/ruff format $(PYTHON_DIRECTORIES)
	$(VENV)/bin/clang-format -i $(CXX_FILES)

wheel: $(VENV)/python-$(VERSION).stamp
	$(VENV)/bin/python -m pip wheel --quiet --prefer-binary --no-deps --wheel-dir dist .
	@ls dist/*.whl

clean:
	rm -rf $(VENV) build dist

# ---- Set-up --------------------------------------------------------------------------------------

# What the set-up needs and cannot bring along. Written so that a Python of any age can say what is
# wrong.
define CHECK_PYTHON
import os, sys, sysconfig
if sys.version_info < (3, 11):
    sys.exit("jax_na needs Python 3.11 or later, and $(PYTHON) is %d.%d: choose one with "
             "make PYTHON=..." % sys.version_info[:2])
try:
    import ensurepip, venv
except ImportError:
    sys.exit("$(PYTHON) cannot make virtual environments: on Debian and Ubuntu, install "
             "python3-venv")
if not os.path.exists(os.path.join(sysconfig.get_paths()["include"], "Python.h")):
    sys.exit("$(PYTHON) came without its C headers: on Debian and Ubuntu, install python3-dev")
endef
export CHECK_PYTHON

# One environment for one Python: asking for another makes it anew.
$(VENV)/python-$(VERSION).stamp:
	@test -n "$(VERSION)" || \
		{ echo "$(PYTHON) does not run: choose one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c "$$CHECK_PYTHON"
	@command -v $${CXX:-c++} g++ clang++ >/dev/null || \
		{ echo "No C++ compiler was found" >&2; exit 1; }
	$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# The package itself, editable: a change of Python code needs no new build, a change of C++ code
# gets one. CUDA's JAX comes along where there is a GPU.
$(VENV)/package.stamp: pyproject.toml $(CMAKE_FILES) $(CXX_FILES) | $(VENV)/python-$(VERSION).stamp
	@echo "Building jax_na for Python $(VERSION) (a few minutes)"
	@if nvidia-smi >/dev/null 2>&1; then extra='[cuda13]'; fi; set -x; \
		$(PIP_INSTALL) --editable ".$$extra"
	@touch $@

# What an extra adds to the package, which is installed already and stays as it is.
$(VENV)/%.stamp: pyproject.toml | $(VENV)/package.stamp
	$(PIP_INSTALL) 'jax_na[$*]'
	@touch $@

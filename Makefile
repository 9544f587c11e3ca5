# SPDX-License-Identifier: GPL-2.0-only
# The two commands: `make run` shows what uvfio does, `make test` checks it.
# Both set up what they need in .venv first; a second run skips that.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PEERS := $(VENV)/.peers

.PHONY: run demo-qemu test lint bench soak corpus corpus-live fuzz clean

run: $(READY)
	$(BIN)/uvfio run -d edu -- $(BIN)/python examples/edu_client.py

# QEMU's guest mounts a file system on our NVMe disk. KERNEL=bzImage: another one than /boot's.
demo-qemu: $(READY)
	@mkdir -p build
	$(BIN)/uvfio run -d nvme,file=build/disk.img,size=64M -d edu -- \
	    $(BIN)/python examples/demo_qemu.py --disk build/disk.img $(if $(KERNEL),--kernel $(KERNEL))

test: $(READY)
	$(BIN)/pytest -q

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# All of them, whatever limit one does not keep; fails in the end if one did not.
BENCHES := ioctl iommufd iommufd_calls dma mmio nvme polling explore

bench: $(PEERS)
	@failed=; for each in $(BENCHES); do \
	    echo "\$$ python bench/bench_$$each.py"; $(BIN)/python bench/bench_$$each.py || failed="$$failed $$each"; \
	done; [ -z "$$failed" ] || { echo "limits not kept:$$failed" >&2; exit 1; }

# Slower than a test should be: 1,000 clients killed at random instants.
soak: $(READY)
	$(BIN)/python bench/kill_clients.py 1000

# Random iommufd and VFIO calls, see docs/iommufd-corpus.md and docs/vfio-corpus.md: ask the
# reference kernel again (about twenty minutes), and play all that it answered to a real program.
CORPORA := iommufd_corpus vfio_corpus

corpus: $(READY)
	cd tests && for each in $(CORPORA); do $(abspath $(BIN))/python -m $$each record || exit 1; done

corpus-live: $(READY)
	cd tests && for each in $(CORPORA); do $(abspath $(BIN))/python -m $$each live || exit 1; done

# Coverage-guided, half an hour. CI runs it with FUZZ_SECONDS=60.
FUZZ_SECONDS ?= 1800
fuzz: $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[fuzz]'
	mkdir -p build/fuzz
	cd tests && $(abspath $(BIN))/python -m iommufd_corpus.fuzz -max_total_time=$(FUZZ_SECONDS) -max_len=1000 \
		-len_control=0 -artifact_prefix=../build/ ../build/fuzz data/fuzz_corpus

$(READY): pyproject.toml
	@echo "setting up $(VENV) (once)"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) must be Python 3.11 or later" >&2; exit 1; }
	@$(PYTHON) -m venv $(VENV) || { echo "$(PYTHON) must have the venv module (Debian: apt-get install python3-venv)" >&2; exit 1; }
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[dev]'
	@touch $@

# What is measured against, beside Debian's spin and gcc.
$(PEERS): $(READY)
	$(BIN)/pip install --quiet --disable-pip-version-check --editable '.[bench]'
	@touch $@

clean:
	rm -rf $(VENV) build *.egg-info

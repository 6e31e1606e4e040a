# Every target installs what it misses: system packages by apt-get (as root), Python packages into .venv.
# Set-up talks on stderr only, so `make demo ARGS="--json"` leaves nothing but JSON on stdout.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.ONESHELL:
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

BIN := .venv/bin
STAMP := .venv/.installed
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input --root-user-action ignore

# command:package
TOOLS := ip:iproute2 nft:nftables ethtool:ethtool iperf3:iperf3 openvpn:openvpn dnsmasq:dnsmasq-base udhcpc:udhcpc
PEERS := wireguard-go:wireguard-go wg:wireguard-tools
# The test machine's: what makes it, and what runs in it.
MACHINE := qemu-system-x86_64:qemu-system-x86 cpio:cpio depmod:kmod pppd:ppp pppoe-server:pppoe \
    /lib/systemd/systemd-networkd:systemd

.PHONY: help test test-vm lint demo bench bench-full bench-pieces bench-matrix bench-vm system

help:
	@echo "make demo   a bonded network in namespaces on this machine (ARGS=\"--quick --json\")"
	echo "make test   lint, types, import contract and every test (as root: the namespace tests need it)"
	echo "make test-vm  tests for a kernel with PPP, VLAN, netem and eql, in a virtual machine: 10 minutes (as root)"
	echo "make lint   lint, types and import contract"
	echo "make bench  the figures of docs/benchmarks.md, under 10 minutes (as root; ARGS=\"gigabit --runs 1\")"
	echo "make bench-full    all benches, 5 runs each: an hour (as root)"
	echo "make bench-matrix  many lines, resumable: hours (as root; ARGS=\"--set low --limit 10\")"
	echo "make bench-vm      bondvpn beside the old setup, eql, in the virtual machine: 20 minutes (as root)"
	echo "make bench-pieces  the hot path's pieces alone, by pytest-benchmark (as root)"

# What needs the machine to itself comes last, in one process (netns-tests/conftest.py).
test: system lint
	@$(BIN)/pytest -n auto --no-loadscope-reorder $(ARGS)

test-vm bench-vm bench-full: TOOLS += $(MACHINE)

test-vm: system $(STAMP)
	@$(BIN)/python netns-tests/vm/machine.py -- $(BIN)/pytest netns-tests/vm $(ARGS)

lint: $(STAMP)
	@$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

demo: system $(STAMP)
	@$(BIN)/bondvpn demo $(ARGS)

bench bench-full bench-pieces: TOOLS += $(PEERS)

bench: system $(STAMP)
	@$(BIN)/python -m bench $(ARGS)

bench-full: system $(STAMP)
	@$(BIN)/python -m bench --full $(ARGS)

bench-pieces: system $(STAMP)
	@$(BIN)/python -m bench pieces $(ARGS)

bench-vm: system $(STAMP)
	@$(BIN)/python -m bench eql-vm $(ARGS)

bench-matrix: system $(STAMP)
	@$(BIN)/python -m bench.matrix $(ARGS)

system:
	@missing=()
	for tool in $(TOOLS); do
	    PATH="$$PATH:/usr/sbin:/sbin" command -v "$${tool%%:*}" >/dev/null || missing+=("$${tool##*:}")
	done
	if (($${#missing[@]})); then $(call apt_install,$${missing[@]}); fi

# The distribution's Python first: it is built with profile-guided optimisation. One that pyenv has built as it does
# when nobody says otherwise costs 7 % more CPU per GB in the tunnel (measured, `bench gigabit`).
$(STAMP): constraints.txt pyproject.toml
	@if [[ ! -x $(BIN)/python ]]; then
	    python=
	    for candidate in /usr/bin/python3 python3 python3.13 python3.12 python3.11; do
	        if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
	            python=$$candidate
	            break
	        fi
	    done
	    if [[ -z $$python ]]; then $(call apt_install,python3 python3-venv); python=python3; fi
	    if ! "$$python" -c 'import ensurepip, venv' 2>/dev/null; then $(call apt_install,python3-venv); fi
	    echo "setting up .venv" >&2
	    "$$python" -m venv .venv >&2
	fi
	$(PIP) -c constraints.txt hatchling editables >&2
	$(PIP) -c constraints.txt --no-build-isolation -e '.[dev]' >&2
	touch $@

# $(1): packages
define apt_install
{
    echo "installing $(1)" >&2
    if ((EUID)); then echo "as root, or install by hand: apt-get install $(1)" >&2; exit 1; fi
    export DEBIAN_FRONTEND=noninteractive
    apt-get update -qq </dev/null >&2
    apt-get install -qq -y --no-install-recommends $(1) </dev/null >&2
}
endef

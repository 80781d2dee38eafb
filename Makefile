# What one can do here; `make help` tells it.

SHELL := /bin/bash
.DEFAULT_GOAL := help
export PATH := $(HOME)/.cargo/bin:$(PATH)

BUILD    := $(CURDIR)/build
TESSERA  := $(or $(CARGO_TARGET_DIR),target)/release/tessera
GUEST    ?= debian:13
MEMORY   ?= 1G
CPUS     ?= 2

# Tests and pages are tried with what this builds. A program alone would be built with fewer features of its crates, and so all of them twice.
BUILD_TESTED := cargo test --workspace --no-run

# The software processor's own tests check every unsafe access besides, with which guests are too slow for all others (Cargo.toml).
CHECKED := --package softcpu --config profile.dev.package.softcpu.debug-assertions=true

# The demo keeps its image here, so that `make clean` leaves nothing behind.
DEMO_HOME := $(BUILD)/demo

.PHONY: help demo test test-page test-api screens bench-page build deb web check-web guests fmt fmt-check clippy deny doc check bench bench-host bench-share bench-balance bench-memory bench-snapshot soak soak-hardware soak-changes soak-memory soak-service setup-build setup-web setup-page setup-api setup-soak setup-image setup-host setup-test setup-deny setup-deb setup-bench clean

help: ## Show this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

demo: setup-build setup-image build ## Start a host and a Debian guest on it, to its console (GUEST=debian:12, CPUS=, MEMORY=; ONCE=1 powers it off by itself)
	@ONCE=$(ONCE) scripts/demo $(TESSERA) $(DEMO_HOME) $(GUEST) --cpus $(CPUS) --memory $(MEMORY) --net user

test: setup-build setup-test test-api test-page ## Run all tests
	@run=$$(cargo nextest --version >/dev/null 2>&1 && echo "nextest run" || echo test); cargo $$run $(CHECKED) && cargo $$run --workspace

test-page: setup-build setup-page web guests ## Test the page in a browser, against a real host with real guests
	$(BUILD_TESTED)
	cd web && node e2e/run.mjs

test-api: setup-build setup-api web guests ## Ask a real host all that its API says it can be asked, and much that it cannot (API='--include-path /api/v1/vms')
	$(BUILD_TESTED)
	@scripts/api/test $(or $(CARGO_TARGET_DIR),target)/debug/tessera $(BUILD)/tiny $(BUILD)/api-test --no-color $(API)

screens: setup-build setup-page web guests ## Take pictures of every screen of the page, in docs/screens
	$(BUILD_TESTED)
	cd web && node e2e/screens.mjs

bench-page: setup-build setup-page web guests ## Measure the page in a browser: first load, scrolling, changes, the mosaic
	$(BUILD_TESTED)
	cd web && node e2e/measure.mjs

build: web ## Build the release binary with its page
	cargo build --release --package tessera

deb: setup-deb build ## Make a Debian package, in build/
	@packaging/deb $(TESSERA) $(BUILD)

web: web/dist/index.html ## Build the page that the binary serves

web/node_modules/.package-lock.json: web/package.json web/package-lock.json | setup-web
	cd web && npm ci --no-fund --no-audit
	@touch $@

web/dist/index.html: web/node_modules/.package-lock.json web/index.html web/vite.config.ts $(shell find web/src web/public -type f)
	cd web && npm run build

check-web: web/node_modules/.package-lock.json ## Check the page: types, lint, unit tests, and that its API types are current
	cd web && npx tsc --noEmit && npm run lint && npm test
	cd web && npx openapi-typescript ../docs/openapi.json --check -o src/api/schema.d.ts

guests: ## Make the tiny guest that tests and benchmarks boot
	@scripts/tiny-guest $(BUILD)/tiny

fmt: ## Format the code
	cargo fmt --all

fmt-check: ## Check that the code is formatted
	cargo fmt --all --check

clippy: ## Look for mistakes that the compiler lets pass
	cargo clippy --workspace --all-targets -- --deny warnings

deny: setup-deny ## Check the licences and sources of what we depend on
	cargo deny --workspace check bans licenses sources

doc: ## Build the documentation of the code, and check its links
	RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --document-private-items

check: fmt-check clippy deny check-web test ## Everything that CI checks

bench: setup-build setup-bench build guests ## Compare with QEMU on this machine
	cargo rustc --release --package bench --bin bench-guest -- -C target-feature=+crt-static
	@scripts/tiny-guest $(BUILD)/bench $(dir $(TESSERA))bench-guest
	cargo run --release --package bench -- $(BENCH)

bench-host: setup-build setup-soak build ## Measure the daemon with a thousand guests (GUESTS=)
	bench/host $(TESSERA) $(GUESTS)

bench-share: setup-build setup-test build guests ## Measure what guests get of one processor against what was asked for, alone and in random trees of groups (SHARE='10 40 --guest linux --engine soft')
	bench/share $(TESSERA) $(SHARE)

bench-balance: setup-build setup-test build guests ## Measure how evenly a hundred equal guests are served, and what one that misbehaves does (BALANCE='processors disks networks storms wide cost folding')
	bench/balance $(TESSERA) $(BUILD)/tiny $(BALANCE)

bench-memory: setup-build setup-test build guests ## Measure what a pool of memory costs its guests, and gives (MEMORY_PARTS='fit over weights idle paged')
	bench/memory $(TESSERA) $(BUILD)/tiny $(MEMORY_PARTS)

bench-snapshot: setup-build setup-bench setup-test build guests ## Measure snapshots, going on from storage, twins, linked clones and deep disks beside QEMU (SNAPSHOT='pause resume twins linked layers')
	bench/snapshot $(TESSERA) $(BUILD)/tiny $(SNAPSHOT)

soak: setup-build setup-image setup-soak build ## Work Debian guests hard for an hour or two (SOAK='day --release 13 --cpus 2', SOAK=reboots)
	scripts/soak $(TESSERA) $(BUILD)/soak $(SOAK)

soak-hardware: setup-build setup-image setup-host build ## Give Debian guests hardware and take it away a hundred times while they work (SOAK='--release 13 --cycles 10')
	scripts/soak-hardware $(TESSERA) $(SOAK)

soak-memory: setup-build setup-image setup-host build ## Have ten Debian guests share a pool of memory for an hour and more (SOAK='idle', SOAK='pressure --minutes 10 --seed 2')
	scripts/soak-memory $(TESSERA) $(SOAK)

soak-service: setup-build setup-image setup-host build ## Have systemd run a host within a Debian guest, with control groups of version 2, and look whether shares hold there (SOAK='--release 12')
	scripts/soak-service $(TESSERA) $(SOAK)

soak-changes: setup-build setup-image setup-host setup-soak build ## Snapshot, revert, branch, suspend and clone a Debian guest a hundred times while it works, and cut that off two hundred times (SOAK='--operations 10 --kills 20 --seed 1')
	TESSERA_HOME=$(BUILD)/soak scripts/soak-changes $(TESSERA) $(SOAK)

# Each setup installs what is missing of one thing, and does nothing where all is there.
setup-build:
	@scripts/need cc:gcc ld:binutils curl:curl
	@scripts/need-rust

setup-web:
	@scripts/need node:nodejs npm:npm

setup-page: setup-test
	@scripts/need chromium:chromium /usr/share/fonts/truetype/wqy/wqy-microhei.ttc:fonts-wqy-microhei

setup-api: setup-test
	@scripts/need python3:python3 unshare:util-linux
	@python3 -c 'import ensurepip' 2>/dev/null || scripts/need ensurepip:python3-venv
	@$(MAKE) --no-print-directory $(BUILD)/api-test/made

$(BUILD)/api-test/made: scripts/api/requirements.txt
	python3 -m venv --clear $(BUILD)/api-test
	$(BUILD)/api-test/bin/pip install --quiet --disable-pip-version-check --require-hashes --requirement $<
	@touch $@

setup-image:
	@scripts/need mmdebstrap:mmdebstrap mkfs.ext4:e2fsprogs passt:passt

setup-host:
	@scripts/need nft:nftables dnsmasq:dnsmasq-base setpriv:util-linux passt:passt

setup-test:
	@scripts/need busybox:busybox-static cpio:cpio passt:passt ip:iproute2 qemu-img:qemu-utils qemu-ga:qemu-guest-agent dropbear:dropbear-bin ssh:openssh-client nft:nftables dnsmasq:dnsmasq-base

setup-soak:
	@scripts/need python3:python3 e2fsck:e2fsprogs qemu-img:qemu-utils

setup-bench:
	@scripts/need qemu-system-x86_64:qemu-system-x86 busybox:busybox-static cpio:cpio
	@# Where qemu-utils came from elsewhere (backports), apt removes them to install the former.
	@scripts/need qemu-img:qemu-utils

setup-deb:
	@scripts/need dpkg-deb:dpkg strip:binutils

setup-deny:
	@cargo deny --version >/dev/null 2>&1 || scripts/need-deny $(BUILD)/tools

clean: ## Remove everything that was built
	cargo clean
	rm -rf $(BUILD)

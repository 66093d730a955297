# Everything that is done with this checkout. `make` alone lists the targets.

CARGO ?= cargo
RUSTC ?= rustc

.DEFAULT_GOAL := help

.PHONY: help
help: ## List the targets
	@awk 'BEGIN { FS = ":.*## " } /^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# The development profile: dependencies are optimised, and the build takes a third of the time of a release build.
.PHONY: demo
demo: ## A demonstration: an embedded registry, four instances, a sidecar, traffic, a killed instance
	$(CARGO) build --package outrigger
	@$(CARGO) run --quiet --package outrigger -- demo

.PHONY: build
build: ## The release binary: target/release/outrigger
	$(CARGO) build --release --package outrigger

.PHONY: test
test: ## Every test; fetches the real Consul for those that need it
	@tests/tools/run.sh

# Client libraries and their own test suites, the commands of the consul binary: against the dev registry, the real Consul and the
# sidecar, compared with the lists of tests/foreign/expected. Arguments: make test-foreign ARGS="--consul py-consul".
.PHONY: test-foreign
test-foreign: ## Programs of others; installs them into target/tools
	$(CARGO) build --package outrigger
	$(CARGO) build --package outrigger-tests --bin foreign
	@target=$$(cd "$${CARGO_TARGET_DIR:-target}" && pwd) && \
	    OUTRIGGER_TEST_BIN="$$target/debug/outrigger" "$$target/debug/foreign" $(ARGS)

# One row per promise, against the real Consul and real server processes; takes some minutes. Arguments:
# make chaos ARGS="--short --rounds 5 kill-two".
.PHONY: chaos
chaos: ## The promises under load: killed instances, deploys, registry outages
	$(CARGO) build --package outrigger
	$(CARGO) build --package outrigger-tests --bin chaos
	@target=$$(cd "$${CARGO_TARGET_DIR:-target}" && pwd) && \
	    OUTRIGGER_TEST_BIN="$$target/debug/outrigger" "$$target/debug/chaos" $(ARGS)

# The chaos row `soak` for longer: make soak MINUTES=60.
.PHONY: soak
MINUTES ?= 10
soak: ## Churn, kills, reloads and slow clients together, for 10 minutes
	@$(MAKE) --no-print-directory chaos ARGS="--minutes $(MINUTES) soak"

.PHONY: lint
lint: ## Format, structure, clippy, documentation, shell scripts: warnings are errors
	$(CARGO) fmt --all --check
	$(CARGO) run --quiet --package outrigger-tests --bin house
	$(CARGO) clippy --workspace --all-targets --quiet -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --quiet
	@if command -v shellcheck >/dev/null; then shellcheck tests/tools/*.sh tests/foreign/programs/*.sh fuzz/*.sh .ci/run; \
	else echo "shellcheck is not installed: scripts are not checked"; fi

.PHONY: bench
bench: ## Measurements, not tests; writes benches/results
	$(CARGO) run --release --package outrigger-benches -- all $(ARGS)

# The bench itself in the development profile: what it measures here are other processes. Arguments:
# make bench-quick OUTRIGGER_BIN=path ARGS="get-1k post-64k".
.PHONY: bench-quick
bench-quick: ## Two minutes beside nginx and HAProxy; prints the table, writes nothing
	$(CARGO) run --quiet --package outrigger-benches -- peers --quick \
	    $(if $(OUTRIGGER_BIN),--outrigger $(OUTRIGGER_BIN)) $(ARGS)

# Streams in memory, one thread, a clock that stands still: other load on the machine changes nothing. Arguments:
# make guard ARGS=--rebase.
.PHONY: guard
guard: ## What a request costs, exactly, against the committed figure; installs valgrind
	$(CARGO) build --quiet --profile guard --package outrigger-guard
	@target=$$(cd "$${CARGO_TARGET_DIR:-target}" && pwd) && \
	    CARGO_TARGET_DIR="$$target" RUSTC="$(RUSTC)" "$$target/guard/outrigger-guard" $(ARGS)

.PHONY: fuzz
fuzz: ## Fuzz the HTTP/1 codec and the messages of DNS, a minute for each target; needs a nightly compiler
	@fuzz/run.sh 60

.PHONY: check
check: ## Everything that CI runs; chaos in its short form
	@MAKE="$(MAKE)" tests/tools/check.sh

.PHONY: doc
doc: ## The crates' documentation, in target/doc
	$(CARGO) doc --workspace --no-deps

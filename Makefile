# What a person and CI do with the project. `make` alone explains itself.
.DEFAULT_GOAL := help
KIT := ./e2e/kit
TEST := ./e2e/test

.PHONY: help
help: ## What can be done
	@echo "Penstock. On a fresh machine: make up"
	@awk 'BEGIN { FS = ":.*## " } /^[a-z0-9-]+:.*## / { printf "  make %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: up
up: ## Build everything, start a real cluster on this machine, send the first events
	@$(KIT) up

.PHONY: down
down: ## Stop it and remove every trace
	@$(KIT) down

.PHONY: test
test: ## Every check and test of the project, on a cluster of its own
	@$(TEST)

.PHONY: test-full
test-full: ## The same with outages of a minute, longer measurements, slow and too many clients, and ten minutes of fuzzing each parser
	@PENSTOCK_TEST_FULL=1 $(TEST)

.PHONY: bench-ingest
bench-ingest: ## Measure ingest beside what it replaces, write docs/benchmarks.md (RUNS=5, PEERS=all)
	@./e2e/bench/run ingest

.PHONY: bench-consume
bench-consume: ## Measure the consumer beside what it replaces, write its part of docs/benchmarks-store.md (RUNS=5, ROWS=2000000)
	@./e2e/bench/run consume

.PHONY: bench-e2e
bench-e2e: ## Measure the way from HTTP to a row, write its part of docs/benchmarks-store.md (RUNS=5, ROWS=1000000)
	@./e2e/bench/run e2e

.PHONY: fuzz
fuzz: ## Fuzz every parser, SECONDS=60 each, or only TARGET=json
	@SECONDS_EACH=$(or $(SECONDS),60) TARGET=$(TARGET) dataplane/fuzz/run

.PHONY: images
images: ## OUT=FILE: write the container image as an OCI archive
	@test -n "$(OUT)" || { echo "say where: make images OUT=penstock.tar" >&2; exit 2; }
	@$(KIT) images --out "$(OUT)"

.PHONY: cli
cli: ## Build the command line and put it, and its kubectl plugin, into ~/.cargo/bin (TO=/usr/local)
	@cargo install --locked --path cli $(if $(TO),--root "$(TO)")
	@ln -sf penstock "$(or $(TO),$${CARGO_INSTALL_ROOT:-$${CARGO_HOME:-$$HOME/.cargo}})/bin/kubectl-penstock"

.PHONY: fmt
fmt: ## Format the code
	@cargo fmt --all

.PHONY: lint
lint: ## Formatting, clippy, licences and known flaws of dependencies
	@$(TEST) lint

.PHONY: unit
unit: ## Tests that need no cluster
	@$(TEST) unit

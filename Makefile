# Everything that is done to this repository is a target here, and continuous integration runs the same
# ones. "make help" lists them.

SHELL       := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.NOTPARALLEL:
.DELETE_ON_ERROR:
.DEFAULT_GOAL := all

# FUZZTIME is how long each fuzz target runs, and FUZZ says which: a regular expression over their names.
FUZZTIME ?= 1s
FUZZ     ?= .
# SEEDS is how many runs of crashes make prove simulates, from SEED on, and TIME how long the other proofs
# take together.
TIME  ?= 1h
SEEDS ?= 2000
SEED  ?= 1
# BENCHFLAGS is added to make bench, for example BENCHFLAGS='-run append -count 3'.
BENCHFLAGS ?=
# BENCH says which Go benchmarks run, and COUNT how often, so that benchstat has something to compare.
BENCH ?= .
COUNT ?= 10
# TESTFLAGS is added to every go test, for example TESTFLAGS='-run Append -v'.
TESTFLAGS ?=
# CONFORMANCEFLAGS is added to the conformance runner, for example --driver memory.
CONFORMANCEFLAGS ?=

GOLANGCI_VERSION := v2.15.0
GOLANGCI         := bin/golangci-lint-$(GOLANGCI_VERSION)
NODE_MODULES     := test/conformance/node_modules/.package-lock.json test/clients/node_modules/.package-lock.json

step = @printf '\n== %s (%s)\n' '$(1)' "$$(date +%H:%M:%S)"

##@ Every day

.PHONY: all
all: fmt-check lint test ## Check the format, lint and test; the default

.PHONY: build
build: ## Build bin/runnel
	$(call step,build)
	go build -o bin/runnel ./cmd/runnel

.PHONY: fmt
fmt: $(GOLANGCI) ## Rewrite the Go files in the project's format
	$(GOLANGCI) fmt

.PHONY: fmt-check
fmt-check: $(GOLANGCI) ## Fail if a Go file is not in the project's format
	$(call step,fmt-check)
	$(GOLANGCI) fmt --diff

.PHONY: lint
lint: $(GOLANGCI) ## Lint, the direction of the imports included
	$(call step,lint)
	$(GOLANGCI) run --allow-parallel-runners

.PHONY: test
test: ## Run the Go tests
	$(call step,test)
	go test $(TESTFLAGS) ./...

##@ In depth

# The crash simulator runs Go code on one processor, and the table of bugs runs go test itself: there the
# race detector would find nothing, and take its time.
UNRACED := ./proof/crash ./proof/bugs

.PHONY: race
race: ## Run the Go tests under the race detector, where that can find something
	$(call step,race)
	go test -race $(TESTFLAGS) $$(go list ./... | grep -v -e /proof/crash$$ -e /proof/bugs$$)
	go test $(TESTFLAGS) $(UNRACED)

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME
	$(call step,fuzz)
	test/fuzz.sh '$(FUZZTIME)' '$(FUZZ)'

.PHONY: conformance
conformance: build test/conformance/node_modules/.package-lock.json ## Run the Durable Streams conformance suite on memory and Pebble
	$(call step,conformance)
	node test/conformance/run.mjs $(CONFORMANCEFLAGS)

.PHONY: clients
clients: build chromium test/clients/node_modules/.package-lock.json ## Test with the published JavaScript client and a browser
	$(call step,clients)
	cd test/clients && node --test --test-reporter=spec restart.test.mjs browser.test.mjs items.test.mjs

.PHONY: cli
cli: build ## Send a large file through the command line and compare what comes back
	$(call step,cli)
	node --test --test-reporter=spec test/clients/cli.test.mjs

.PHONY: bench
bench: ## Measure the server against limits made on the spot, and print a table; BENCHFLAGS=-h
	go run ./bench $(BENCHFLAGS)

.PHONY: microbench
microbench: ## Run the Go benchmarks COUNT times, in the form that benchstat reads
	go test -run '^$$' -bench '$(BENCH)' -benchmem -count '$(COUNT)' ./...

.PHONY: prove
prove: ## Simulate SEEDS crashes, and run every other proof for TIME together
	$(call step,prove)
	test/prove.sh '$(TIME)' '$(SEEDS)' '$(SEED)'

.PHONY: bugs
bugs: ## Bring every bug that ever was back, one by one, and see that a test notices
	$(call step,bugs)
	go test ./proof/bugs -count=1 -timeout 0 -v -args -all

.PHONY: ci
ci: setup fmt-check lint race fuzz conformance clients cli ## Install what the tests need and run all of them
	$(call step,all of it passed)

##@ Set up

.PHONY: setup
setup: $(GOLANGCI) $(NODE_MODULES) chromium ## Install what lint and the tests need, where it is missing
	$(call step,setup)
	go mod download

$(GOLANGCI):
	$(call step,golangci-lint $(GOLANGCI_VERSION))
	GOBIN='$(CURDIR)/bin' go install github.com/golangci/golangci-lint/v2/cmd/golangci-lint@$(GOLANGCI_VERSION)
	mv bin/golangci-lint $@

test/%/node_modules/.package-lock.json: test/%/package.json test/%/package-lock.json
	$(call step,npm ci in test/$*)
	cd test/$* && npm ci
	touch $@

.PHONY: chromium
chromium:
	@[ -x "$${CHROMIUM:-/usr/bin/chromium}" ] || { \
		printf '\n== chromium\n'; \
		apt-get update; \
		DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends chromium; \
	}

.PHONY: clean
clean: ## Remove what was built and installed here
	rm -rf bin test/conformance/node_modules test/clients/node_modules

.PHONY: help
help: ## Show this text
	@awk 'BEGIN { FS = ":.*## " } \
		/^##@ / { printf "\n%s\n", substr($$0, 5) } \
		/^[a-z-]+:.*## / { printf "  %-13s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

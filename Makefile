# What there is to type: make demo first, make test second.

GO          ?= go
STATICCHECK := honnef.co/go/tools/cmd/staticcheck@v0.8.2
GOLANGCI    := github.com/golangci/golangci-lint/v2/cmd/golangci-lint@v2.15.0

# The commit is stamped into the binary where there is one to stamp, whatever
# GOFLAGS in the environment says.
VCS   := $(shell git rev-parse --verify -q HEAD >/dev/null 2>&1 && echo true || echo false)
BUILD := CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=$(VCS)

TEST       ?= $(GO) test
FUZZTIME   ?= 5s
BENCHFLAGS ?=

.PHONY: build demo test race fuzz lint golangci soak years bench cross cross-all clean

build: ## bin/p2pfs, static
	$(BUILD) -o bin/p2pfs ./cmd/p2pfs

demo: build ## watch a file survive the loss of 12 of 20 peers
	scripts/testnet.sh demo

test: ## every test that needs no C compiler and no root
	CGO_ENABLED=0 $(TEST) -short -timeout 20m ./...

# Networks of real processes are left out: they take four times as long, and
# Badger's collector reads a counter beside its writer, which ends such a node.
# So are simulated years, which have one goroutine a world, and simulated
# networks, in one of a dozen runs of which the runtime itself gave up; and tests
# that live through thousands of states one after the other, for minutes.
SLOWLY := TestAny|TestAPartedVolume|TestTwoHeadsOfOneNumber|TestTwoMergeTheSame|TestTwoPutTheSame|TestFalseHeadsPoison|TestMadeUpVolumes|TestWhatIsPutAgain|TestMarkOfADraft|TestHostileTrees|TestTreesThatNeverEnd|TestListsThatNeverEnd|TestOpenLists|TestGroupsOf|TestAVolumeDoesWhatAModelDoes|TestACommitThatEnds|TestAPruneThatEnds|TestWritersWhoSeeSome
race: ## the others under the race detector; needs a C compiler
	CGO_ENABLED=1 $(TEST) -race -short -timeout 15m -skip '$(SLOWLY)' $$($(GO) list ./... | grep -v -e internal/testnet -e internal/sim)

fuzz: ## every fuzz target for FUZZTIME
	@scripts/fuzz.sh $(FUZZTIME)

lint: ## vet, gofmt, staticcheck
	$(GO) vet ./...
	@out=$$(gofmt -l .); if [ -n "$$out" ]; then echo "gofmt these:"; echo "$$out"; exit 1; fi
	$(GO) run $(STATICCHECK) ./...

golangci: ## the wider lint, minutes to build the first time
	$(GO) run $(GOLANGCI) run

bench: ## real networks, a table on stdout, all figures in bench.json
	$(GO) run ./internal/bench --json bench.json $(BENCHFLAGS)

cross: CROSS = linux/amd64 windows/arm64
cross-all: CROSS = linux/amd64 linux/arm64 darwin/amd64 darwin/arm64 windows/amd64 windows/arm64
cross cross-all: ## one native and one foreign target; all six
	@set -e; for t in $(CROSS); do \
		case $$t in windows/*) exe=.exe;; *) exe=;; esac; \
		echo "build $$t"; \
		GOOS=$${t%/*} GOARCH=$${t#*/} $(BUILD) -o bin/p2pfs-$${t%/*}-$${t#*/}$$exe ./cmd/p2pfs; \
	done

soak: ## what takes long: hours of it; see CONTRIBUTING.md
	$(MAKE) lint golangci cross-all
	P2PFS_SOAK=1 $(TEST) -timeout 4h $$($(GO) list ./... | grep -v internal/sim$$)
	$(MAKE) years
	$(MAKE) race
	$(MAKE) fuzz FUZZTIME=5m
	$(MAKE) bench

years: ## 10,000 simulated years; what is stopped goes on where it was
	CGO_ENABLED=0 P2PFS_SOAK=1 $(TEST) -v -timeout 0 ./internal/sim

clean:
	rm -rf bin bench.json

# berth: build, test, show. `make help` lists what there is.

# sudo often drops Go from PATH.
export PATH := $(PATH):/usr/local/go/bin:/usr/lib/go/bin
# systemd units and bare environments have no HOME, where Go's caches are.
export HOME ?= /root
# One set of flags, so that tests take from Go's cache what the binaries are made of.
export GOFLAGS := $(filter-out -trimpath,$(GOFLAGS)) -trimpath
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := all

PREFIX  ?= /usr/local
DESTDIR ?=
GO      ?= go
TESTFLAGS ?=
VERSION ?= 0.1.0
CACHE   := hack/.cache

# Everything is built for ARCH, amd64 or arm64: this machine's into bin, the
# other's into bin/ARCH, by Debian's cross compiler and its library unpacked
# below the cache (make ARCH=arm64 setup bin package).
MACHINE  := $(patsubst x86_64,amd64,$(patsubst aarch64,arm64,$(shell uname -m)))
ARCH     := $(MACHINE)
OTHER    := $(firstword $(filter-out $(MACHINE),arm64 amd64))
BIN      := bin
COMPILER := gcc
CROSS    :=
SECCOMP  :=
STATIC   := -static
ifneq ($(ARCH),$(MACHINE))
BIN      := bin/$(ARCH)
TRIPLET_amd64 := x86_64-linux-gnu
TRIPLET_arm64 := aarch64-linux-gnu
TRIPLET  := $(or $(TRIPLET_$(ARCH)),$(error cannot build for "$(ARCH)": there are amd64 and arm64))
COMPILER := $(TRIPLET)-gcc
SECCOMP  := $(CACHE)/foreign/$(ARCH)/libseccomp-dev
CROSS    := CC=$(COMPILER) PKG_CONFIG_LIBDIR=$(CURDIR)/$(SECCOMP)/usr/lib/$(TRIPLET)/pkgconfig \
  PKG_CONFIG_SYSROOT_DIR=$(CURDIR)/$(SECCOMP) PKG_CONFIG_ALLOW_SYSTEM_CFLAGS=1 PKG_CONFIG_ALLOW_SYSTEM_LIBS=1
# Go's cache gives what pkg-config said in the first clone that was built, which may be gone.
STATIC   += -L$(CURDIR)/$(SECCOMP)/usr/lib/$(TRIPLET)
endif

# The shim is static, because it is executed from a sealed memfd whose file
# system nobody may rely on, and links as little as libcontainer allows.
SHIM_TAGS    := seccomp runc_nocriu netgo osusergo
SHIM_LDFLAGS := -s -w -X main.version=$(VERSION) -extldflags '$(STATIC)'
GO_BUILD     := GOARCH=$(ARCH) $(GO) build -trimpath -buildvcs=false

# Packages that cannot be tested without cgo: the shim and nothing else.
UNIT_PACKAGES = $$($(GO) list ./... | grep -v -e /runtime/shim$$ -e /cmd/berth-shim$$)
SHIM_PACKAGES := ./runtime/shim ./cmd/berth-shim

BINARIES := $(BIN)/berthd $(BIN)/berth-shim $(BIN)/berth $(BIN)/berth-init
# Scripts that complete, by shell, and their files below share.
COMPLETIONS := bash:bash-completion/completions/berth zsh:zsh/site-functions/_berth fish:fish/vendor_completions.d/berth.fish
SAMPLES  := deploy/config.toml deploy/crictl.yaml deploy/kubelet-berth.conf deploy/kubelet-config.yaml deploy/kubeadm.yaml deploy/10-bridge.conflist

.PHONY: help
help: ## list the targets
	@awk -F ':.*## ' '/^[a-z][a-z0-9-]*:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# ---- build ----------------------------------------------------------------

.PHONY: all bin FORCE
all: bin ## build bin/berthd, bin/berth-shim, bin/berth and bin/berth-init; ARCH=arm64: bin/arm64/...
bin: $(BINARIES)

# Plugins of NRI are processes: without its WebAssembly runtime the daemon is a tenth smaller.
$(BIN)/berthd $(BIN)/berth: FORCE
	CGO_ENABLED=0 $(GO_BUILD) -tags nri_no_wasm -ldflags '-s -w -X main.version=$(VERSION)' -o $@ ./cmd/$(@F)

$(BIN)/berth-shim: FORCE $(SECCOMP)
	CGO_ENABLED=1 $(CROSS) $(GO_BUILD) -tags "$(SHIM_TAGS)" -ldflags "$(SHIM_LDFLAGS)" -o $@ ./cmd/berth-shim

# Without libc: process 1 of a pod is a few kilobytes. INIT lets a test put it elsewhere.
INIT := $(BIN)/berth-init
.PHONY: init
init: $(INIT)
$(INIT): runtime/podinit/init.c
	@mkdir -p $(@D)
	$(COMPILER) -static -nostdlib -ffreestanding -fno-stack-protector -fno-asynchronous-unwind-tables -Os -Wall -Wextra -s -o $@ $<

ifdef SECCOMP
$(SECCOMP):
	@hack/foreign.sh $(ARCH) $(@F)
endif

# The daemon that kills itself where BERTH_FAILPOINT says; never installed.
bin/failpoint/berthd: FORCE
	CGO_ENABLED=0 $(GO_BUILD) -tags "failpoint nri_no_wasm" -o $@ ./cmd/berthd

# The client of kubernetes' own tools, pinned by hack/tools/go.mod.
$(CACHE)/crictl: hack/tools/go.mod hack/tools/go.sum
	@mkdir -p $(CACHE)
	cd hack/tools && CGO_ENABLED=0 $(GO) build -buildvcs=false -o ../.cache/crictl sigs.k8s.io/cri-tools/cmd/crictl

.PHONY: crictl
crictl: $(CACHE)/crictl ## build kubernetes' client of CRI to hack/.cache/crictl

.PHONY: reference
reference: ## write deploy/cli.md and deploy/man anew from the commands' help
	CGO_ENABLED=0 $(GO) test -count=1 -run 'TestReferenceIsUpToDate|TestTheDaemonsPagesAreUpToDate' ./cmd/berth ./cmd/berthd -update

# The reference plugins of CNI, pinned by hack/cniplugins/go.mod, and the one of the tests.
CNI := $(CACHE)/cni/bridge
.PHONY: cni
cni: $(CNI) $(CACHE)/cni/fault ## build plugins of CNI for the tests to hack/.cache/cni
$(CNI): hack/cniplugins/go.mod hack/cniplugins/go.sum
	@mkdir -p $(CACHE)/cni
	cd hack/cniplugins && CGO_ENABLED=0 $(GO) build -trimpath -buildvcs=false -ldflags '-s -w' -o ../.cache/cni/ $$($(GO) list tool)
	@touch $@
$(CACHE)/cni/fault: $(wildcard hack/cnitest/*.go hack/cnitest/plugin/*.go)
	@mkdir -p $(CACHE)/cni
	CGO_ENABLED=0 $(GO_BUILD) -ldflags '-s -w' -o $@ ./hack/cnitest/plugin

.PHONY: setup
setup: ## install the Debian packages that lack (hack/setup.sh says which)
	@hack/setup.sh $(ARCH)

.PHONY: setup-quiet
setup-quiet:
	@hack/setup.sh --quiet

# ---- show -----------------------------------------------------------------

.PHONY: demo
demo: ## from nothing to a running pod, as a story with real figures (root)
	@hack/demo.sh

# ---- test -----------------------------------------------------------------

.PHONY: test
test: ## every lane: lint, unit, root (with -race), e2e, critest, kubelet-smoke, vm-smoke; installs what lacks (root)
	@hack/test.sh

.PHONY: lint
lint: ## gofmt, go vet for both architectures, and golangci-lint where it is installed
	@unformatted="$$(find cmd cri hack imageservice runtime volumes -name '*.go' -not -path '$(CACHE)/*' -exec gofmt -l {} +)"; \
	  if [ -n "$$unformatted" ]; then echo "not gofmt'ed:"; echo "$$unformatted"; exit 1; fi
	CGO_ENABLED=1 $(GO) vet -tags "$(SHIM_TAGS)" $(SHIM_PACKAGES)
	CGO_ENABLED=0 $(GO) vet $(UNIT_PACKAGES)
	CGO_ENABLED=0 $(GO) vet -tags failpoint ./runtime/sys/fail ./cmd/berthd
	CGO_ENABLED=0 $(GO) vet -tags e2e,crash,soak,kube,debian,selinux ./hack/...
	CGO_ENABLED=0 GOARCH=$(OTHER) $(GO) vet $(UNIT_PACKAGES)
	CGO_ENABLED=0 GOARCH=$(OTHER) $(GO) vet -tags failpoint ./runtime/sys/fail ./cmd/berthd
	CGO_ENABLED=0 GOARCH=$(OTHER) $(GO) vet -tags e2e,crash,soak,kube,debian,selinux ./hack/...
	@if command -v golangci-lint >/dev/null; then golangci-lint run ./...; fi

# For the other architecture this needs its compiler, so it is no part of lint.
.PHONY: vet-shim
vet-shim: $(SECCOMP)
	CGO_ENABLED=1 $(CROSS) GOARCH=$(ARCH) $(GO) vet -tags "$(SHIM_TAGS)" $(SHIM_PACKAGES)

# The shim's tests as a program for ARCH, at OUT, for a guest.
.PHONY: shim-test
shim-test: $(SECCOMP)
	@CGO_ENABLED=1 $(CROSS) GOARCH=$(ARCH) $(GO) test -c -tags "$(SHIM_TAGS)" -ldflags "-s -w -extldflags '$(STATIC)'" -o $(OUT) ./runtime/shim

.PHONY: test-unit
test-unit: ## the tests that need neither root nor packages
	CGO_ENABLED=0 $(GO) vet $(UNIT_PACKAGES)
	CGO_ENABLED=0 $(GO) test $(TESTFLAGS) $(UNIT_PACKAGES)

.PHONY: test-root
test-root: ## every package on the real kernel, with the race detector (root)
	CGO_ENABLED=1 $(GO) test $(TESTFLAGS) -timeout 30m -race -tags "$(SHIM_TAGS)" ./...

.PHONY: test-e2e
test-e2e: export PATH := $(PATH):$(CURDIR)/$(CACHE)/engines/bin
test-e2e: bin $(CACHE)/crictl cni ## the built binaries, driven by crictl (root)
	@hack/engines.sh
	CGO_ENABLED=0 $(GO) test $(TESTFLAGS) -count=1 -tags e2e -timeout 5m ./hack/lab/...
	CGO_ENABLED=0 $(GO) test $(TESTFLAGS) -count=1 -tags e2e -timeout 20m ./hack/e2e

.PHONY: example
example: bin $(CACHE)/crictl ## build a real PostgreSQL and ten projects from Debian's packages, and use them (root, packages)
	$(GO) test $(TESTFLAGS) -count=1 -tags e2e,debian -timeout 40m -v -run 'TestPostgreSQL|TestLargeDockerfiles' ./hack/e2e

.PHONY: critest
critest: bin cni ## kubernetes' specs of CRI, all 122, in turn and side by side, over SPDY and WebSocket (root)
	@hack/critest.sh

.PHONY: crash
crash: bin bin/failpoint/berthd $(CACHE)/crictl cni ## kill the daemon before and after every step, and the shim (root)
	$(GO) test -count=1 -tags crash -timeout 60m -v ./hack/crash/...
	$(GO) test -count=1 -tags e2e -timeout 10m -v -run 'Killed' ./hack/e2e/...

.PHONY: soak
soak: bin $(CACHE)/crictl cni ## the long runs: thousands of sessions, logs under kills (root)
	$(GO) test -count=1 -tags soak -timeout 60m -v ./hack/soak/...

.PHONY: test-vm vm-smoke
test-vm: bin $(CACHE)/crictl cni ## in guests: cgroup v2 only, systemd's cgroup driver, AppArmor; critest and e2e there (root)
	@hack/vm/test.sh

vm-smoke: bin $(CACHE)/crictl cni ## the essential part of it, in one guest with cgroup v2 (root)
	@hack/vm/test.sh --smoke

.PHONY: test-package
test-package: ## the Debian package where systemd is process 1, in a guest (root)
	@hack/vm/package.sh

.PHONY: test-node
test-node: kube-programs $(CACHE)/crictl ## kubeadm's node on berth with systemd; containerd's place taken and given back, in guests (root)
	@hack/vm/node.sh

.PHONY: test-checkpoint
test-checkpoint: bin $(CACHE)/crictl ## checkpoints by the real CRIU, in a guest (root)
	@hack/vm/checkpoint.sh

.PHONY: test-selinux
test-selinux: bin $(CACHE)/crictl ## labels where SELinux enforces a policy, in a guest; critest's specs of it (root)
	@hack/vm/selinux.sh

.PHONY: test-arm64
test-arm64: ## binaries and package for arm64, units' tests under emulation, a node and packages' tests in arm64 guests (root)
	@hack/setup.sh --quiet arm64 vm-arm64
	@$(MAKE) --no-print-directory ARCH=arm64 bin package vet-shim
	@hack/vm/arm64.sh

# 14 minutes of CPU time the first time, to build what is pinned by hack/tools/kube.
.PHONY: kube-programs
kube-programs: bin cni
	@hack/setup.sh --quiet
	@hack/busybox.sh
	@hack/kube/build.sh

KUBE_TEST := CGO_ENABLED=0 $(GO) test -count=1 -tags kube -timeout 40m -parallel 6 -v
.PHONY: kubelet kubelet-smoke
kubelet: kube-programs ## the real kubelet and a cluster of one node on berth, by kubectl (root)
	$(KUBE_TEST) ./hack/kube/...

kubelet-smoke: kube-programs ## a handful of these tests
	$(KUBE_TEST) -short -run '^Test(Standalone|DeletedMeanwhile|Readiness|Exec|PortForward|Logs|GracefulDeletion)$$' ./hack/kube/...

.PHONY: test-all
test-all: test crash critest kubelet soak example test-vm test-package test-node test-checkpoint test-selinux test-arm64 ## everything there is (root)

.PHONY: fuzz
fuzz: ## every fuzz target for FUZZTIME each (10s)
	@hack/fuzz.sh

.PHONY: bench
bench: bin cni ## pulls, memory at rest and the latencies of a pod's life; BENCH="-what pull -peer unix://..." (root)
	@$(GO) run ./hack/bench $(BENCH)

# ---- install --------------------------------------------------------------

# What runs here, to write completions.
BERTH := $(if $(CROSS),CGO_ENABLED=0 $(GO) run -trimpath -buildvcs=false -tags nri_no_wasm ./cmd/berth,bin/berth)

.PHONY: install
install: ## install to $(DESTDIR)$(PREFIX): binaries, units, sample configuration
	@# Built binaries are taken as they are: root has another build cache.
	@for binary in $(BINARIES); do [ -x $$binary ] || exec $(MAKE) bin; done
	install -d "$(DESTDIR)$(PREFIX)/bin" "$(DESTDIR)$(PREFIX)/lib/systemd/system" "$(DESTDIR)$(PREFIX)/share/berth"
	install -m 0755 $(BINARIES) "$(DESTDIR)$(PREFIX)/bin"
	sed 's|@PREFIX@|$(PREFIX)|g' deploy/berthd.service >"$(DESTDIR)$(PREFIX)/lib/systemd/system/berthd.service"
	install -m 0644 $(SAMPLES) "$(DESTDIR)$(PREFIX)/share/berth"
	install -d $(foreach c,$(COMPLETIONS),"$(DESTDIR)$(PREFIX)/share/$(dir $(word 2,$(subst :, ,$(c))))")
	for section in 1 5 8; do \
	  install -d "$(DESTDIR)$(PREFIX)/share/man/man$$section"; \
	  install -m 0644 deploy/man/berth*.$$section "$(DESTDIR)$(PREFIX)/share/man/man$$section"; done
	$(foreach c,$(COMPLETIONS),$(BERTH) completion $(word 1,$(subst :, ,$(c))) >"$(DESTDIR)$(PREFIX)/share/$(word 2,$(subst :, ,$(c)))";)

.PHONY: uninstall
uninstall: ## remove what install installed; state and images stay
	for binary in $(BINARIES); do rm -f "$(DESTDIR)$(PREFIX)/bin/$${binary##*/}"; done
	rm -f "$(DESTDIR)$(PREFIX)/lib/systemd/system/berthd.service"
	rm -rf "$(DESTDIR)$(PREFIX)/share/berth" "$(DESTDIR)$(PREFIX)"/share/man/man1/berth{,-*}.1 "$(DESTDIR)$(PREFIX)"/share/man/man[58]/berthd*
	rm -f $(foreach c,$(COMPLETIONS),"$(DESTDIR)$(PREFIX)/share/$(word 2,$(subst :, ,$(c)))")

# nfpm, which is pinned in hack/package/go.mod, writes the archive. The binaries
# are those of ARCH.
PACKAGE := $(CACHE)/berth_$(VERSION)_$(ARCH).deb

$(CACHE)/nfpm: hack/package/go.mod hack/package/go.sum
	@mkdir -p $(CACHE)
	cd hack/package && CGO_ENABLED=0 $(GO) build -buildvcs=false -o ../.cache/nfpm github.com/goreleaser/nfpm/v2/cmd/nfpm

.PHONY: package
package: bin $(CACHE)/nfpm ## make a Debian package, hack/.cache/berth_VERSION_ARCH.deb
	rm -rf $(CACHE)/stage
	@$(MAKE) --no-print-directory install DESTDIR=$(CACHE)/stage PREFIX=/usr >/dev/null
	mv $(CACHE)/stage/usr/share/zsh/site-functions $(CACHE)/stage/usr/share/zsh/vendor-completions
	mkdir -p $(CACHE)/stage/usr/share/doc/berth
	cp README.md CHANGELOG.md deploy/cli.md deploy/replacing-containerd.md deploy/selinux.md $(CACHE)/stage/usr/share/doc/berth
	gzip -9n $(CACHE)/stage/usr/share/man/man*/*
	find $(CACHE)/stage -exec touch -h -d @$$(git log -1 --format=%ct 2>/dev/null || echo 0) {} +
	ARCH=$(ARCH) VERSION=$(VERSION) SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct 2>/dev/null || echo 0) \
	  $(CACHE)/nfpm package --config deploy/package/nfpm.yaml --packager deb --target $(PACKAGE)

.PHONY: clean
clean: ## remove what was built and cached in this folder
	rm -rf bin $(CACHE)

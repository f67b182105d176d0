# SPDX-License-Identifier: Apache-2.0
SHELL := /usr/bin/env bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Fixed lengths, so that every clone gives a commit the same names.
VERSION ?= $(shell git describe --tags --always --abbrev=12 --dirty 2>/dev/null || echo v0.0.0)
COMMIT  ?= $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS := -s -w -X botbottle.dev/bottle-operator/internal/setup.version=$(VERSION) -X botbottle.dev/bottle-operator/internal/setup.commit=$(COMMIT)
export CGO_ENABLED := 0

BIN := $(CURDIR)/bin
TOOL := go tool -modfile=hack/tools/go.mod
SMOLVM_REFERENCE := 1.32.2
SMOLVM_OLDER := 1.9.1
# Images are built by exactly this release of Go, because another one gives other bytes.
IMAGE_GO := go1.26.8
PLATFORMS ?= linux/amd64,linux/arm64
# make image-push IMAGE=registry.example.com/team/bottle-operator:1.0 SMOLVM_IMAGE=…
IMAGE ?=
SMOLVM_IMAGE ?= $(dir $(IMAGE))bottle-smolvm:$(SMOLVM_REFERENCE)
STANDINS := 0.8.0 1.7.7 1.9.1 1.32.2

# The development cluster: make dev-up NODES=2 MACHINES=standin, or make dev-up KUBELET=real
NODES ?= 1
MACHINES ?= real
KUBELET ?= simulated
# pod or docker; by default pod with KUBELET=real, and docker otherwise
BUNDLE_RUNTIME ?=
DEV_DIR ?= $(BIN)/dev
export NODES MACHINES KUBELET BUNDLE_RUNTIME DEV_DIR

FUZZTIME ?= 10m
FUZZ_PARALLEL ?= 1
BENCH_OUT ?= $(BIN)/bench.json

##@ Running
.PHONY: help
help: ## Show this help.
	@awk 'BEGIN {FS = ":.*##"; printf "usage: make TARGET [NODES=n] [MACHINES=real|standin] [KUBELET=real|simulated] [BUNDLE_RUNTIME=pod|docker]\n"} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-zA-Z0-9_-]+:.*?##/ {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: demo
demo: ## Bring up a cluster, run a Bottle in a real microVM and show it.
	@hack/demo

.PHONY: dev-up
dev-up: dev-prepare ## Start the development cluster (NODES, MACHINES, KUBELET, BUNDLE_RUNTIME, NAMESPACE).
	@hack/dev/up

.PHONY: dev-down
dev-down: ## Stop the development cluster and remove everything but its logs.
	@hack/dev/down

.PHONY: install
install: controlplane ## Apply the CRD to the cluster of the current kubeconfig, with the kubectl that make controlplane builds.
	$(BIN)/kubectl apply --server-side -k config/crd

.PHONY: deploy
deploy: controlplane ## Apply the CRD, RBAC and the manager to the cluster of the current kubeconfig, with the same kubectl (DRY_RUN=server only validates).
	$(BIN)/kubectl apply --server-side $(if $(DRY_RUN),--dry-run=$(DRY_RUN)) -k config/default

##@ Building
.PHONY: build
build: ## Build the programs to bin/.
	@go build -trimpath -ldflags '$(LDFLAGS)' -o $(BIN)/bottle-operator .
	@go build -trimpath -ldflags '-s -w' -o $(BIN)/bottle-guest ./cmd/bottle-guest
	@go build -trimpath -ldflags '-s -w' -o $(BIN)/bottle-bundle ./cmd/bottle-bundle
	@go build -trimpath -ldflags '-s -w' -o $(BIN)/kubectl-bottle ./cmd/kubectl-bottle
	@ln -sfn kubectl-bottle $(BIN)/kubectl_complete-bottle

.PHONY: image image-push
image image-push: export GOTOOLCHAIN := $(IMAGE_GO)
image: ## Write the images and their SBOMs to bin/images (PLATFORMS=linux/amd64 builds one platform only).
	@go run ./hack/image build -version '$(VERSION)' -revision '$(COMMIT)' -created "$$(git log -1 --format=%ct)" \
	  -smolvm $(SMOLVM_REFERENCE) -wheels $(BIN)/wheels -platforms '$(PLATFORMS)' $(BIN)/images

image-push: ## Push what make image wrote: IMAGE=REGISTRY/PATH/bottle-operator:TAG, and bottle-smolvm beside it (SMOLVM_IMAGE).
	@[ -n '$(IMAGE)' ] || { echo 'name the image: make image-push IMAGE=registry.example.com/team/bottle-operator:1.0' >&2; exit 2; }
	@go run ./hack/image push $(BIN)/images/oci/bottle-operator '$(IMAGE)'
	@go run ./hack/image push $(BIN)/images/oci/bottle-smolvm '$(SMOLVM_IMAGE)'

.PHONY: generate
generate: ## Regenerate deepcopy code, OpenAPI, the CRD, the generated docs and parts of the chart.
	@$(TOOL) controller-gen object:headerFile=hack/boilerplate.go.txt paths=./api/...
	@# The names of the models. The other output of this call is not used: what the server needs is made below.
	@$(TOOL) openapi-gen --go-header-file hack/boilerplate.go.txt --output-dir $(BIN)/openapi --output-pkg openapi --output-model-name-file zz_generated.model_name.go --report-filename /dev/null ./api/subresources/v1alpha1
	@$(TOOL) openapi-gen --go-header-file hack/boilerplate.go.txt --output-dir internal/accessapi/openapi --output-pkg botbottle.dev/bottle-operator/internal/accessapi/openapi --output-file zz_generated.openapi.go --report-filename /dev/null k8s.io/apimachinery/pkg/apis/meta/v1 k8s.io/apimachinery/pkg/runtime k8s.io/apimachinery/pkg/version ./api/subresources/v1alpha1
	@$(TOOL) controller-gen crd paths=./api/v1alpha1 output:crd:dir=config/crd/bases
	@go run ./hack/docs conditions > docs/conditions.md.tmp && mv docs/conditions.md.tmp docs/conditions.md
	@go run ./hack/chart

##@ Tools and images, cached in bin/
.PHONY: controlplane
controlplane: ## Build etcd, kube-apiserver, -scheduler, -controller-manager, kubectl and kwok (copies what KUBEBUILDER_ASSETS has).
	@hack/controlplane/build $(BIN)/controlplane
	@ln -sfn controlplane/kubectl $(BIN)/kubectl

.PHONY: helm
helm: ## Build Helm, which installs charts/bottle-operator, to bin/helm.
	@hack/helm/build 4 $(BIN)/helm

.PHONY: helm3
helm3: # Build Helm 3 to bin/helm3, for the tests of the chart.
	@hack/helm/build 3 $(BIN)/helm3

.PHONY: kubelet
kubelet: ## Build what a virtual node with a real kubelet runs: kubelet, kube-proxy, containerd, crictl and CNI plugins.
	@hack/controlplane/build $(BIN)/kubelet node

.PHONY: smolvm
smolvm: ## Fetch the real smolvm to bin/smolvm/<version>.
	@hack/smolvm-real/fetch $(SMOLVM_REFERENCE) $(BIN)/smolvm/$(SMOLVM_REFERENCE)

.PHONY: smolvm-older
smolvm-older: # Fetch an older real smolvm, for the contract suite.
	@hack/smolvm-real/fetch $(SMOLVM_OLDER) $(BIN)/smolvm/$(SMOLVM_OLDER)

.PHONY: standin
standin: ## Build the stand-in for smolvm (test equipment).
	@for v in $(STANDINS); do hack/standin-install $$v $(BIN)/standin/$$v; done

.PHONY: images
images: ## Build the default guest image and the test images.
	@hack/images/build $(BIN)/images

.PHONY: vnode
vnode: smolvm ## Build the virtual node, which boots microVMs on hosts without a working KVM.
	@hack/vnode/build $(BIN)/vnode $(BIN)/smolvm/$(SMOLVM_REFERENCE)

.PHONY: dev-prepare
dev-prepare: # Install and build what the development cluster needs.
	@hack/prepare

##@ Checking
.PHONY: lint
lint: # Run the read-only checks of the sources.
	@hack/lint

.PHONY: verify
verify: generate lint ## Generate, run the read-only checks, and require that generated files are committed.
	@hack/verify-clean

.PHONY: check
check: verify ## Run verify and the tests that need only Go.
	@go test -short ./...

.PHONY: test
test: ## Run every layer of tests, from pure to real microVMs (REQUIRE_ALL=1: no test may skip).
	@hack/test

.PHONY: test-long
test-long: ## Run the tests that are too slow for make test (REQUIRE_ALL=1: no test may skip).
	@hack/test-long

.PHONY: race
race: ## Run the tests that need no cluster under the race detector (part of make test; installs gcc).
	@hack/race

.PHONY: contract-node
contract-node: ## Run the whole contract suite of host.Machines on node-1 of a running cluster with real machines (20 minutes under emulation).
	@hack/contract-node

.PHONY: smolvm-check
smolvm-check: ## Judge a release of smolvm: make smolvm-check VERSION=1.33.0 (half an hour where emulated).
	@hack/smolvm-check $(VERSION)

.PHONY: fuzz
fuzz: ## Run each fuzz target for FUZZTIME (10m).
	@FUZZTIME=$(FUZZTIME) FUZZ_PARALLEL=$(FUZZ_PARALLEL) hack/fuzz

.PHONY: bench
bench: ## Measure speed and cost relative to the bare commands; prints a table and writes bin/bench.json.
	@BENCH_OUT=$(BENCH_OUT) hack/bench

.PHONY: vulncheck
vulncheck: ## Check for known vulnerabilities (needs the online vulnerability database).
	@$(TOOL) govulncheck ./...

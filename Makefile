# What CI does, without installing anything; see .ci/run.
.PHONY: check test build

check:
	.ci/run --local

test:
	go test ./...

build:
	CGO_ENABLED=0 go build -trimpath -ldflags '-s -w' -o curfew ./cmd/curfew

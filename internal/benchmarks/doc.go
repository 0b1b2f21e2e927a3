// Package benchmarks measures the whole of Curfew, over the simulated Azure: how fast a port opens and shuts, how many writes a
// crowd costs, what the binary weighs. It has no code but its benchmarks; docs/performance.md holds the figures, the targets, and
// the commands that make them. Nothing here is a test: a slow machine must not fail anybody's change.
//
//	go test -run '^$' -bench . -benchtime 1x -timeout 60m ./internal/benchmarks
package benchmarks

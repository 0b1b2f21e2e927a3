package benchmarks_test

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"
	"time"
)

const command = "github.com/curfew-jit/curfew/cmd/curfew"

// build makes the binary and returns its path, how long that took, and the processor time of it.
func build(b *testing.B, env []string, flags ...string) (path string, took, used time.Duration) {
	b.Helper()
	out := filepath.Join(b.TempDir(), "curfew")
	if runtime.GOOS == "windows" {
		out += ".exe"
	}
	cmd := exec.Command("go", append(append([]string{"build"}, flags...), "-o", out, command)...)
	cmd.Env = append(os.Environ(), env...)
	start := time.Now()
	if msg, err := cmd.CombinedOutput(); err != nil {
		b.Fatalf("%v: %s", err, msg)
	}
	return out, time.Since(start), cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
}

func megabytes(b *testing.B, path string) float64 {
	b.Helper()
	fi, err := os.Stat(path)
	if err != nil {
		b.Fatal(err)
	}
	return float64(fi.Size()) / 1e6
}

// released is how releases are built.
var released = []string{"-trimpath", "-ldflags=-s -w"}

// BenchmarkHelp runs `curfew help` as its own process, fifty times for each iteration.
func BenchmarkHelp(b *testing.B) {
	path, _, _ := build(b, nil, released...)
	var took, used []time.Duration
	for b.Loop() {
		for range 50 {
			cmd := exec.Command(path, "help")
			start := time.Now()
			if out, err := cmd.Output(); err != nil || len(out) == 0 {
				b.Fatalf("curfew help: %v", err)
			}
			took = append(took, time.Since(start))
			used = append(used, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		}
	}
	spread(b, "help", took)
	spread(b, "help-cpu", used)
}

// BenchmarkBinarySize builds the binary as released, and plain.
func BenchmarkBinarySize(b *testing.B) {
	for range b.N {
		path, _, _ := build(b, nil, released...)
		b.ReportMetric(megabytes(b, path), "released-MB")
		path, _, _ = build(b, nil)
		b.ReportMetric(megabytes(b, path), "plain-MB")
	}
}

// BenchmarkColdBuild builds with an empty build cache and the modules at hand, on two processors.
func BenchmarkColdBuild(b *testing.B) {
	for range b.N {
		_, took, used := build(b, []string{"GOCACHE=" + b.TempDir(), "GOMAXPROCS=2"}, "-p=2")
		b.ReportMetric(took.Seconds(), "build-s")
		b.ReportMetric(used.Seconds(), "build-cpu-s") // half of it is what two idle processors could do at best
	}
}

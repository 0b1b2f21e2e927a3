package benchmarks_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/scan/collect"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// largeEstate is that of the targets: a hundred thousand machines with their interfaces, in 200 subscriptions, ten to a group of ten
// rules. Every machine has a public address in the harder of two measurements, every fourth in the other.
func largeEstate(publicEvery int) []string {
	return []string{"--vms", "100000", "--subscriptions", "200", "--nsgs", "10000", "--rules", "10", "--public-every", strconv.Itoa(publicEvery)}
}

// simulator starts `curfew sim` in a process of its own.
func simulator(b *testing.B, binary string, args ...string) (url, ca string) {
	b.Helper()
	cmd := exec.Command(binary, append([]string{"sim", "--json", "--listen", "127.0.0.1:0", "--dir", b.TempDir()}, args...)...)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		_ = cmd.Wait() // it was interrupted
	})
	line, err := bufio.NewReader(out).ReadBytes('\n')
	if err != nil {
		b.Fatal(err)
	}
	var at struct{ Azure, CA string }
	if err := json.Unmarshal(line, &at); err != nil {
		b.Fatal(err)
	}
	return at.Azure, at.CA
}

// collected is what a process that collects an estate says of itself.
type collected struct {
	Seconds  float64 `json:"seconds"` // from the process's start
	CPU      float64 `json:"cpu"`
	PeakMB   float64 `json:"peak_mb"`
	Calls    int     `json:"calls"`
	Machines int     `json:"machines"`
	Gaps     int     `json:"gaps"`
}

const collectURL = "CURFEW_BENCH_COLLECT"

// TestMain lets the test's binary be the process that collects, so that its memory is that of the collection alone.
func TestMain(m *testing.M) {
	if url := os.Getenv(collectURL); url != "" {
		if err := collectAlone(url, os.Getenv("CURFEW_BENCH_CA")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func collectAlone(url, ca string) error {
	start := time.Now()
	if name := os.Getenv("CURFEW_BENCH_PROFILE"); name != "" {
		f, err := os.Create(name)
		if err != nil {
			return err
		}
		defer f.Close()
		if err := pprof.StartCPUProfile(f); err != nil {
			return err
		}
		defer pprof.StopCPUProfile()
	}
	pem, err := os.ReadFile(ca)
	if err != nil {
		return err
	}
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	t := http.DefaultTransport.(*http.Transport).Clone()
	t.TLSClientConfig = &tls.Config{RootCAs: pool}
	t.MaxIdleConnsPerHost = 32
	web := &http.Client{Transport: t}
	cloud := azure.Public
	cloud.Endpoint = url
	token, err := signIn(web, url)
	if err != nil {
		return err
	}
	var calls atomic.Int64
	client, err := azure.New(azure.Options{Cloud: cloud, Credential: azure.StaticToken(token), Transport: web,
		OnAttempt: func(string, string) { calls.Add(1) }})
	if err != nil {
		return err
	}
	e, _, err := collect.Collect(context.Background(), collect.Config{Client: client})
	if err != nil {
		return err
	}
	took := time.Since(start)
	return json.NewEncoder(os.Stdout).Encode(collected{took.Seconds(), cpu().Seconds(), peakMB(), int(calls.Load()), len(e.VMs()), len(e.Gaps())})
}

// peakMB is the most memory that this process ever held, 0 where the system does not tell. ru_maxrss would count the parent's too.
func peakMB() float64 {
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0
	}
	_, after, _ := strings.Cut(string(status), "VmHWM:")
	kb, _, _ := strings.Cut(strings.TrimSpace(after), " ")
	n, err := strconv.ParseFloat(kb, 64)
	if err != nil {
		return 0
	}
	return n * 1024 / 1e6
}

// signIn asks the simulated directory for a token.
func signIn(web *http.Client, url string) (string, error) {
	form := "grant_type=client_credentials&client_id=" + sim.ClientID + "&client_secret=" + sim.ClientSecret + "&scope=https://management.azure.com/.default"
	resp, err := web.Post(url+"/"+sim.TenantID+"/oauth2/v2.0/token", "application/x-www-form-urlencoded", strings.NewReader(form))
	if err != nil {
		return "", err
	}
	defer resp.Body.Close()
	var t struct {
		Token string `json:"access_token"`
	}
	err = json.NewDecoder(resp.Body).Decode(&t)
	return t.Token, err
}

// BenchmarkScanCollect reads the large estate, simulator and scanner each in a process of its own, and reports time, memory and calls of
// the scanner: the collection and joining alone, without judging.
func BenchmarkScanCollect(b *testing.B) {
	binary, _, _ := build(b, nil, released...)
	for _, every := range []int{4, 1} {
		b.Run(fmt.Sprintf("public-every=%d", every), func(b *testing.B) {
			url, ca := simulator(b, binary, largeEstate(every)...)
			var times []time.Duration
			var peak, cpu, calls float64
			for range max(b.N, 3) {
				cmd := exec.Command(os.Args[0])
				cmd.Env = append(os.Environ(), collectURL+"="+url, "CURFEW_BENCH_CA="+ca, "GOMAXPROCS="+strconv.Itoa(min(2, runtime.NumCPU())))
				var errs bytes.Buffer
				cmd.Stderr = &errs
				out, err := cmd.Output()
				if err != nil {
					b.Fatalf("%v: %s", err, errs.Bytes())
				}
				var c collected
				if err := json.Unmarshal(out, &c); err != nil {
					b.Fatal(err)
				}
				if c.Machines != 100_000 || c.Gaps != 0 {
					b.Fatalf("%+v", c)
				}
				times = append(times, time.Duration(c.Seconds*float64(time.Second)))
				peak, cpu, calls = max(peak, c.PeakMB), c.CPU, float64(c.Calls)
			}
			spread(b, "collect", times)
			b.ReportMetric(peak, "peak-MB")
			b.ReportMetric(cpu, "cpu-s")
			b.ReportMetric(calls, "calls")
		})
	}
}

// BenchmarkScan runs the whole of `curfew scan` against the large estate, from the start of its process to the last byte of the report.
func BenchmarkScan(b *testing.B) {
	binary, _, _ := build(b, nil, released...)
	url, ca := simulator(b, binary, largeEstate(4)...)
	for _, format := range []string{"table", "json"} {
		b.Run(format, func(b *testing.B) {
			scanned(b, binary, format, "--standalone", "--azure-endpoint", url, "--azure-ca", ca)
		})
	}
}

// BenchmarkScanFile does the same with an exported file of the same estate, 208 MB: no Azure, no simulator beside it.
func BenchmarkScanFile(b *testing.B) {
	binary, _, _ := build(b, nil, released...)
	file := filepath.Join(b.TempDir(), "estate.json")
	f, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	if err := estates.WriteLarge(f, estates.LargeOptions{VMs: 100_000, NSGs: 10_000, Rules: 10, Subscriptions: 200, PublicEvery: 4}); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	for _, format := range []string{"table", "json"} {
		b.Run(format, func(b *testing.B) { scanned(b, binary, format, "--from-file", file) })
	}
}

// scanned scans three times or more, and reports time, processor and memory of the scanner's process.
func scanned(b *testing.B, binary, format string, args ...string) {
	var times, used []time.Duration
	peak := 0.0
	for range max(b.N, 3) {
		cmd := exec.Command(binary, append([]string{"scan", "--output", format}, args...)...)
		cmd.Env = append(os.Environ(), "AZURE_TENANT_ID="+sim.TenantID, "AZURE_CLIENT_ID="+sim.ClientID, "AZURE_CLIENT_SECRET="+sim.ClientSecret,
			"GOMAXPROCS="+strconv.Itoa(min(2, runtime.NumCPU())))
		var errs bytes.Buffer
		var out tally
		cmd.Stdout, cmd.Stderr = &out, &errs
		start := time.Now()
		err := cmd.Run()
		took := time.Since(start)
		if err != nil || !out.saw("100000") || out.lines < 100_000 {
			b.Fatalf("%v: %.300s %.300s", err, errs.Bytes(), out.head)
		}
		times = append(times, took)
		used = append(used, cmd.ProcessState.UserTime()+cmd.ProcessState.SystemTime())
		peak = max(peak, maxMB(cmd.ProcessState))
		b.ReportMetric(float64(out.bytes)/1e6, "report-MB")
	}
	spread(b, "scan", times)
	spread(b, "scan-cpu", used)
	b.ReportMetric(peak, "peak-MB")
}

// tally takes a report in without holding it: a process that is started counts what this one holds to its own peak.
type tally struct {
	head, tail   []byte
	bytes, lines int
}

func (t *tally) Write(p []byte) (int, error) {
	t.head = append(t.head, p[:min(len(p), 4096-len(t.head))]...)
	t.tail = append(t.tail, p[max(0, len(p)-4096):]...)
	t.tail = t.tail[:copy(t.tail, t.tail[max(0, len(t.tail)-4096):])] // also where the last piece is a short one
	t.bytes += len(p)
	t.lines += bytes.Count(p, []byte{'\n'})
	return len(p), nil
}

// ReadFrom takes as much at a time as a pipe holds: the reader is no part of what is measured, and takes a share of the processors.
func (t *tally) ReadFrom(r io.Reader) (n int64, err error) {
	room := make([]byte, 1<<16)
	for err == nil {
		var k int
		k, err = r.Read(room)
		_, _ = t.Write(room[:k])
		n += int64(k)
	}
	if err == io.EOF {
		err = nil
	}
	return n, err
}

// saw tells whether the beginning or the end of the report holds a text: the sums, wherever the format has them.
func (t *tally) saw(s string) bool {
	return bytes.Contains(t.head, []byte(s)) || bytes.Contains(t.tail, []byte(s))
}

// BenchmarkScanQuota reads 40,000 resources with Resource Graph's quota on, in real time, and reports the time over what the quota
// alone dictates: fifteen queries at once, and fifteen more every five seconds.
func BenchmarkScanQuota(b *testing.B) {
	file := filepath.Join(b.TempDir(), "estate.json")
	f, err := os.Create(file)
	if err != nil {
		b.Fatal(err)
	}
	if err := estates.WriteLarge(f, estates.LargeOptions{VMs: 40_000, NSGs: 4000, Rules: 10, Subscriptions: 80}); err != nil {
		b.Fatal(err)
	}
	if err := f.Close(); err != nil {
		b.Fatal(err)
	}
	body, err := os.ReadFile(file)
	if err != nil {
		b.Fatal(err)
	}
	s, err := sim.New(sim.Config{Estate: body, GraphQuota: true})
	if err != nil {
		b.Fatal(err)
	}
	for range b.N {
		var queries atomic.Int64
		client, err := azure.New(azure.Options{Cloud: azure.Public, Credential: azure.StaticToken(s.Token()), Transport: &http.Client{Transport: s.Transport()},
			OnAttempt: func(_, url string) {
				if strings.HasSuffix(url, "/Microsoft.ResourceGraph/resources") {
					queries.Add(1)
				}
			}})
		if err != nil {
			b.Fatal(err)
		}
		start := time.Now()
		if _, _, err := collect.Collect(b.Context(), collect.Config{Client: client}); err != nil {
			b.Fatal(err)
		}
		took := time.Since(start)
		alone := time.Duration((queries.Load()-1)/15) * 5 * time.Second
		b.ReportMetric(took.Seconds(), "took-s")
		b.ReportMetric(took.Seconds()/alone.Seconds(), "times-quota")
		b.ReportMetric(float64(queries.Load()), "queries")
		time.Sleep(6 * time.Second) // the window of the next run is its own
	}
}

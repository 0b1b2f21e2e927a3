package benchmarks_test

import (
	"bytes"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
)

// put is one write of a whole group, as it left for Azure.
type put struct {
	at     time.Time
	rules  int
	allows int
	first  time.Time // the earliest end of an allow of ours in it; zero without one
}

// wire is the way to Azure: it takes latency for each request, and remembers the writes of groups.
type wire struct {
	latency time.Duration
	onPut   func(group string, p put) // under no lock; may be nil

	mu    sync.Mutex
	puts  map[string][]put // by lower-case id of the group
	calls map[string]int   // by method
	on    bool             // whether it is as Azure is: with latency, and with limits
}

func newWire(latency time.Duration) *wire {
	return &wire{latency: latency, puts: map[string][]put{}, calls: map[string]int{}}
}

// real switches the latency, and what Azure says of its limits, on or off: what comes before the measured part need not wait for it.
func (w *wire) real(on bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.on = on
}

// forget drops what was seen.
func (w *wire) forget() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.puts, w.calls = map[string][]put{}, map[string]int{}
}

func (w *wire) of(group string) []put {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.puts[strings.ToLower(group)])
}

func (w *wire) count(method string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.calls[method]
}

// wrap is an Options.Transport of brokertest.
func (w *wire) wrap(next http.RoundTripper) http.RoundTripper { return &trip{w, next} }

type trip struct {
	w    *wire
	next http.RoundTripper
}

var (
	groupPath = regexp.MustCompile(`(?i)/networkSecurityGroups/[^/]+$`)
	ourAllow  = regexp.MustCompile(`"curfew-allow-` + bt.Installation + `-[0-9a-z-]*?-?([0-9]{8}T[0-9]{6}Z)[^"]*"`)
)

func (t *trip) RoundTrip(req *http.Request) (*http.Response, error) {
	var p put
	group := ""
	if req.Method == http.MethodPut && groupPath.MatchString(req.URL.Path) {
		body, err := io.ReadAll(req.Body)
		if err != nil {
			return nil, err
		}
		_ = req.Body.Close()
		req.Body = io.NopCloser(bytes.NewReader(body))
		group, p = strings.ToLower(req.URL.Path), readPut(body)
		p.at = time.Now()
		if t.w.onPut != nil {
			t.w.onPut(group, p)
		}
	}
	t.w.mu.Lock()
	if group != "" {
		t.w.puts[group] = append(t.w.puts[group], p)
	}
	t.w.calls[req.Method]++
	wait, real := t.w.latency, t.w.on
	t.w.mu.Unlock()
	if !real {
		resp, err := t.next.RoundTrip(req)
		if err == nil {
			for k := range resp.Header {
				if strings.HasPrefix(k, "X-Ms-Ratelimit-Remaining-") {
					delete(resp.Header, k)
				}
			}
		}
		return resp, err
	}
	if wait > 0 {
		select {
		case <-time.After(wait):
		case <-req.Context().Done():
			return nil, req.Context().Err()
		}
	}
	return t.next.RoundTrip(req)
}

func readPut(body []byte) put {
	p := put{rules: bytes.Count(body, []byte(`"priority":`))}
	for _, m := range ourAllow.FindAllSubmatch(body, -1) {
		p.allows++
		end, err := time.Parse("20060102T150405Z", string(m[1]))
		if err != nil {
			panic(fmt.Sprintf("an allow of ours with an unreadable end: %s", m[0]))
		}
		if p.first.IsZero() || end.Before(p.first) {
			p.first = end
		}
	}
	return p
}

// spread reports the median, the 99th percentile and the greatest of some durations, in milliseconds.
func spread(b *testing.B, name string, ds []time.Duration) {
	b.Helper()
	if len(ds) == 0 {
		return
	}
	ds = slices.Clone(ds)
	slices.Sort(ds)
	at := func(q float64) float64 {
		// The nearest rank: the smallest value that at least q of all do not exceed.
		i := min(max(int(q*float64(len(ds))+0.9999999)-1, 0), len(ds)-1)
		return float64(ds[i].Microseconds()) / 1000
	}
	b.ReportMetric(at(.5), name+"-p50-ms")
	b.ReportMetric(at(.99), name+"-p99-ms")
	b.ReportMetric(at(1), name+"-max-ms")
	b.ReportMetric(float64(len(ds)), name+"-n")
}

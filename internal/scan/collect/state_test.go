package collect_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/scan/collect"
	"github.com/curfew-jit/curfew/internal/sim"
)

// interrupted collects with a state until the nth page was answered, as a process that is killed then does: what is on its way is lost.
// It returns how many pages of resources were asked for.
func interrupted(t *testing.T, b *bench, state string, n int) int {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var pages atomic.Int64
	client := b.client(t, func(next http.RoundTripper) http.RoundTripper {
		return transport(func(r *http.Request) (*http.Response, error) {
			if !isPage(r) {
				return next.RoundTrip(r)
			}
			k := pages.Add(1)
			if k > int64(n) {
				cancel()
				return nil, ctx.Err()
			}
			return next.RoundTrip(r)
		})
	})
	if _, err := collect.Into(ctx, collect.Config{Client: client, State: collect.NewState(state, 0)}, &basket{}); !errors.Is(err, context.Canceled) {
		t.Fatalf("broken off at page %d: %v", n, err)
	}
	return n
}

// isPage tells requests for resources from counts and memberships.
func isPage(r *http.Request) bool {
	if !strings.HasSuffix(r.URL.Path, "Microsoft.ResourceGraph/resources") {
		return false
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return false
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	return bytes.Contains(body, []byte("order by id")) && !bytes.Contains(body, []byte("networkresources"))
}

func pagesOf(b *bench) int { return b.calls()["graph"] }

// A scan that is interrupted after any number of pages goes on there, asks for few pages twice, and reads what a whole one reads.
func TestResumeAfterEveryPage(t *testing.T) {
	body := large(t)
	plain := newSim(t, sim.Config{Estate: body, GraphPage: few, PageSize: few})
	whole := plain.collect(t, collect.Config{}).all()
	pages := pagesOf(plain) - 2 // without count and memberships
	if pages < 6 {
		t.Fatalf("the estate has %d pages, want several", pages)
	}
	again := newSim(t, sim.Config{Estate: body, GraphPage: few, PageSize: few})
	step := 1
	if testing.Short() {
		step = pages - 1
	}
	for n := 0; n < pages; n += step {
		state := filepath.Join(t.TempDir(), "scan.state")
		interrupted(t, again, state, n)
		again.notes, again.progress = nil, nil
		before := pagesOf(again)
		if info, err := os.Stat(state); err != nil || info.Mode().Perm()&0o077 != 0 {
			t.Fatalf("the state after %d pages: %v %v", n, info, err)
		}
		got := again.collect(t, collect.Config{State: collect.NewState(state, 0)})
		if all := got.all(); !slices.Equal(all, whole) || len(got.gaps) > 0 {
			t.Errorf("after %d pages: %d resources, want %d; gaps %v", n, len(all), len(whole), got.gaps)
		}
		// A page that was answered and not kept, because the process died in between, is asked for again; a division is not.
		if asked := pagesOf(again) - before - 1; asked > pages-n+2 {
			t.Errorf("after %d of %d pages: %d more were asked for", n, pages, asked)
		}
		if notes := strings.Join(again.notes, "\n"); !strings.Contains(notes, "resuming") {
			t.Errorf("notes %q do not say that it was resumed", notes)
		}
		if last := again.progress[len(again.progress)-1]; n > 2 && last.Resumed == 0 || last.Rows != len(whole) {
			t.Errorf("the last progress is %+v", last)
		}
		if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the state is still there: %v", err)
		}
	}
}

// By lists too: those that were read to their end are not asked for again, and one that was broken off is read whole.
func TestResumeByLists(t *testing.T) {
	body := large(t)
	arm := collect.Config{ViaARM: true}
	plain := newSim(t, sim.Config{Estate: body, GraphPage: few, PageSize: few})
	whole := plain.collect(t, arm).all()
	lists := func(b *bench) (n int) {
		for _, r := range b.Requests() {
			if isList(r.Path) {
				n++
			}
		}
		return n
	}
	all := lists(plain)
	if all < 60 {
		t.Fatalf("%d requests for lists, want one for each type of each of five subscriptions", all)
	}
	b := newSim(t, sim.Config{Estate: body, GraphPage: few, PageSize: few})
	for _, n := range []int{0, 1, 20, all / 2, all - 1} {
		state := filepath.Join(t.TempDir(), "scan.state")
		ctx, cancel := context.WithCancel(t.Context())
		var asked atomic.Int64
		client := b.client(t, func(next http.RoundTripper) http.RoundTripper {
			return transport(func(r *http.Request) (*http.Response, error) {
				if isList(r.URL.Path) && asked.Add(1) > int64(n) {
					cancel()
					return nil, ctx.Err()
				}
				return next.RoundTrip(r)
			})
		})
		broken := arm
		broken.Client, broken.State, broken.Parallel = client, collect.NewState(state, 0), 4
		if _, err := collect.Into(ctx, broken, &basket{}); !errors.Is(err, context.Canceled) {
			t.Fatalf("broken off at list %d: %v", n, err)
		}
		cancel()
		if other := collect.NewState(state, 0); n > 0 { // another way is another question
			if _, err := collect.Into(t.Context(), collect.Config{Client: b.client(t, nil), State: other}, &basket{}); access.CodeOf(err) != access.CodeConflict {
				t.Errorf("by Resource Graph: %v", err)
			}
		}
		b.notes, b.progress = nil, nil
		before := lists(b)
		resumed := arm
		resumed.State = collect.NewState(state, 0)
		got := b.collect(t, resumed)
		if rows := got.all(); !slices.Equal(rows, whole) || len(got.gaps) > 0 {
			t.Errorf("after %d lists: %d resources, want %d; gaps %v", n, len(rows), len(whole), got.gaps)
		}
		// Those that were under way, of which there are at most four of some pages each, are read again.
		if again := lists(b) - before; again > all-n+4*4 {
			t.Errorf("after %d of %d requests: %d more", n, all, again)
		}
		if last := b.progress[len(b.progress)-1]; n >= all/2 && last.Resumed == 0 || last.Resumed > last.Rows {
			t.Errorf("after %d lists the last progress is %+v", n, last)
		}
		if _, err := os.Stat(state); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the state is still there: %v", err)
		}
	}
}

// isList tells the lists of types in a subscription from other calls.
func isList(path string) bool {
	return strings.Count(path, "/") == 5 && strings.Contains(path, "/providers/") && !strings.Contains(path, "Microsoft.Security")
}

// kept returns a state of a scan that was interrupted after some pages.
func kept(t *testing.T, body []byte, pages int) []byte {
	t.Helper()
	state := filepath.Join(t.TempDir(), "scan.state")
	interrupted(t, newSim(t, sim.Config{Estate: body, GraphPage: few, PageSize: few}), state, pages)
	data, err := os.ReadFile(state)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// A state that is cut short anywhere behind its first line is resumed; one that is damaged anywhere is refused, or it was the end that
// is damaged and that part is read again. Never does a scan miss something (P10).
func TestDamagedStates(t *testing.T) {
	body := manyVMs(220)
	whole := newSim(t, sim.Config{Estate: body, GraphPage: few, PageSize: few}).collect(t, collect.Config{}).all()
	data := kept(t, body, 2)
	header := bytes.IndexByte(data, '\n') + 1
	b := newSim(t, sim.Config{Estate: body, GraphPage: few, PageSize: few})
	try := func(data []byte) (*basket, error) {
		state := filepath.Join(t.TempDir(), "scan.state")
		if err := os.WriteFile(state, data, 0o600); err != nil {
			t.Fatal(err)
		}
		return b.try(t, collect.Config{State: collect.NewState(state, 0)})
	}
	step := max(1, (len(data)-header)/12)
	for cut := header; cut <= len(data); cut += step {
		got, err := try(data[:cut])
		if err != nil || !slices.Equal(got.all(), whole) {
			t.Errorf("cut at %d of %d: %v", cut, len(data), err)
		}
	}
	refused := 0
	for at := 0; at < len(data); at += max(1, len(data)/40) {
		bad := bytes.Clone(data)
		bad[at] ^= 0x15
		got, err := try(bad)
		var shown *access.Error
		switch {
		case err == nil && slices.Equal(got.all(), whole):
		case errors.As(err, &shown) && strings.Contains(shown.Hint, "rm "):
			refused++
		default:
			t.Errorf("damaged at %d of %d: %v", at, len(data), err)
		}
	}
	if refused < 15 {
		t.Errorf("%d damages were refused, want most", refused)
	}
}

// What is not the state of this very scan is refused with a way on, and left as it is; what is too old is begun anew.
func TestForeignStates(t *testing.T) {
	body := large(t)
	b := newSim(t, sim.Config{Estate: body, GraphPage: few, PageSize: few})
	good := string(kept(t, body, 4))
	for _, c := range []struct{ name, data, want string }{
		{"another file", "root:x:0:0\n", "not the state of a scan"},
		{"JSON of something else", `{"resources":[]}` + "\n", "not the state of a scan"},
		{"a later version", strings.Replace(good, `"version":1`, `"version":2`, 1), "version 2"},
		{"edited", strings.Replace(good, `"parts":[`, `"parts": [`, 1), ""}, // the same JSON: no damage
		{"another division", strings.Replace(good, `"rows":`, `"rows":1`, 1), "damaged"},
	} {
		t.Run(c.name, func(t *testing.T) {
			state := filepath.Join(t.TempDir(), "scan.state")
			if err := os.WriteFile(state, []byte(c.data), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := b.try(t, collect.Config{State: collect.NewState(state, 0)})
			if c.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			var shown *access.Error
			if !errors.As(err, &shown) || !strings.Contains(shown.Message, c.want) || !strings.Contains(shown.Hint, "rm "+state) {
				t.Errorf("error %v, want %q and a way on", err, c.want)
			}
			if now, err := os.ReadFile(state); err != nil || string(now) != c.data {
				t.Errorf("the file was touched: %v", err)
			}
		})
	}
	state := filepath.Join(t.TempDir(), "scan.state")
	write := func() {
		if err := os.WriteFile(state, []byte(good), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write()
	if _, err := b.try(t, collect.Config{Endpoint: "https://elsewhere", State: collect.NewState(state, 0)}); err == nil || !strings.Contains(err.Error(), "another cloud") {
		t.Errorf("another cloud's state: %v", err)
	}
	b.notes = nil
	time.Sleep(time.Millisecond)
	b.collect(t, collect.Config{State: collect.NewState(state, time.Nanosecond)})
	if strings.Contains(strings.Join(b.notes, "\n"), "resuming") {
		t.Error("a state that is too old was resumed")
	}
}

// A token that Azure no longer takes sends the part back to its first page.
func TestResumeWhenTheTokenHasRunOut(t *testing.T) {
	body := large(t)
	whole := newSim(t, sim.Config{Estate: body, GraphPage: few, PageSize: few}).collect(t, collect.Config{}).all()
	state := filepath.Join(t.TempDir(), "scan.state")
	interrupted(t, newSim(t, sim.Config{Estate: body, GraphPage: few, PageSize: few}), state, 4)
	b := newSim(t, sim.Config{Estate: body, GraphPage: few, PageSize: few})
	if _, err := b.Fault(sim.Fault{Kind: "error", Status: 400, Code: "BadRequest", PathPattern: "ResourceGraph", BodyPattern: "skipToken", Count: 2}); err != nil {
		t.Fatal(err)
	}
	got := b.collect(t, collect.Config{State: collect.NewState(state, 0)})
	if all := got.all(); !slices.Equal(all, whole) || len(got.gaps) > 0 {
		t.Errorf("%d resources, want %d; gaps %v", len(all), len(whole), got.gaps)
	}
	if notes := strings.Join(b.notes, "\n"); !strings.Contains(notes, "read again") {
		t.Errorf("notes %q", notes)
	}
}

// Two scans do not share a state.
func TestAStateInUse(t *testing.T) {
	body := large(t)
	state := filepath.Join(t.TempDir(), "scan.state")
	b := newSim(t, sim.Config{Estate: body, GraphPage: few, PageSize: few})
	var inside atomic.Bool
	client := b.client(t, func(next http.RoundTripper) http.RoundTripper {
		return transport(func(r *http.Request) (*http.Response, error) {
			if isPage(r) && !inside.Swap(true) {
				_, err := newSim(t, sim.Config{Estate: body, GraphPage: few, PageSize: few}).try(t, collect.Config{State: collect.NewState(state, 0)})
				var shown *access.Error
				if !errors.As(err, &shown) || shown.Code != access.CodeConflict {
					t.Errorf("a second scan on the same state: %v", err)
				}
			}
			return next.RoundTrip(r)
		})
	})
	b.collect(t, collect.Config{Client: client, State: collect.NewState(state, 0)})
}

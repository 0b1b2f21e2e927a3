package broker_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/scan"
)

// scripted is a scanner that finds what it is told, after some time.
type scripted struct {
	mu    sync.Mutex
	find  []scan.Finding
	err   error
	panic bool
	takes time.Duration
	runs  int
}

func (s *scripted) set(fs ...scan.Finding) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.find = fs
}

func (s *scripted) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.runs
}

func (s *scripted) Scan(ctx context.Context) (scan.Report, error) {
	s.mu.Lock()
	s.runs++
	rep := scan.Report{At: time.Now(), Findings: s.find, Summary: scan.Summary{VMs: 7, Complete: true, Statuses: map[scan.Status]int{scan.Fail: len(s.find)}}}
	err, boom, takes := s.err, s.panic, s.takes
	s.mu.Unlock()
	select {
	case <-time.After(takes):
	case <-ctx.Done():
		return rep, ctx.Err()
	}
	if boom {
		panic("scanner")
	}
	return rep, err
}

func (s *scripted) Explain(_ context.Context, in broker.ExplainInput) (scan.Explanation, error) {
	return scan.Explanation{Name: in.VM, Port: in.Port}, nil
}

func open(vm string) scan.Finding {
	return scan.Finding{ID: "f-" + vm, Rule: scan.VMPortExposed, Status: scan.Fail, Severity: scan.High, Name: vm, Type: "Microsoft.Compute/virtualMachines",
		Resource: "/subscriptions/s/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/" + vm, Reason: "port 22 is open to the Internet"}
}

// P7: a scan, and what changed since the one before, stand in the log; what did not change does not.
func TestScanTellsWhatChanged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := &scripted{}
		s := bt.New(t, bt.Options{Scanner: sc, NoStart: true})
		defer s.Stop()
		run := func() scan.Head {
			h, err := s.Broker.RunScan(t.Context(), bt.Auditor)
			if err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Minute)
			return h
		}
		sc.set(open("a"), open("b"))
		first := run()
		sc.set(open("b"), open("c"))
		second := run()
		var got []string
		entries, err := s.Broker.Entries(t.Context(), bt.Auditor, broker.AuditFilter{Ascending: true, After: -1, Limit: 100})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range entries {
			if strings.HasPrefix(e.Action, "scan.") {
				got = append(got, e.Action+" "+string(e.Outcome)+" "+e.Object)
			}
		}
		want := []string{"scan.run intent ", "scan.done done " + first.ID, "scan.run intent ", "scan.done done " + second.ID, "scan.appeared done f-c", "scan.gone done f-a"}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("got %q\nwant %q", got, want)
		}
		d, err := s.Broker.DiffScans(t.Context(), bt.Admin, "", broker.Latest)
		if err != nil || len(d.Appeared) != 1 || d.Appeared[0].ID != "f-c" || len(d.Gone) != 1 || d.Gone[0].ID != "f-a" {
			t.Errorf("diff: %+v, %v", d, err)
		}
		_, err = s.Broker.DiffScans(t.Context(), bt.Admin, "", first.ID)
		if access.CodeOf(err) != access.CodeNotFound {
			t.Errorf("nothing is before the first: %v", err)
		}
		rec, err := s.Broker.Scan(t.Context(), bt.Admin, second.ID)
		if err != nil || rec.Report.ID != second.ID || len(rec.Report.Findings) != 2 {
			t.Errorf("the report: %+v, %v", rec, err)
		}
	})
}

// Those who ask at once share one scan, and it outlives whoever asked first.
func TestScanIsShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := &scripted{takes: time.Minute}
		s := bt.New(t, bt.Options{Scanner: sc, NoStart: true})
		defer s.Stop()
		impatient, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Broker.RunScan(impatient, bt.Admin); access.CodeOf(err) != access.CodeUnavailable {
				t.Errorf("the impatient one: %v", err)
			}
		})
		heads := make([]scan.Head, 5)
		for i := range heads {
			wg.Go(func() {
				var err error
				if heads[i], err = s.Broker.RunScan(t.Context(), bt.Admin); err != nil {
					t.Error(err)
				}
			})
		}
		wg.Wait()
		for _, h := range heads {
			if h.ID != heads[0].ID {
				t.Errorf("not one scan: %v", heads)
			}
		}
		if sc.count() != 1 {
			t.Errorf("%d scans ran, want 1", sc.count())
		}
	})
}

// P8: a scan that fails, or panics, leaves nothing half kept, is told, and the next one works.
func TestScanThatFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		sc := &scripted{err: access.Errorf(access.CodeAzureUnavailable, "Azure is away")}
		s := bt.New(t, bt.Options{Scanner: sc, NoStart: true})
		defer s.Stop()
		if _, err := s.Broker.RunScan(t.Context(), bt.Admin); access.CodeOf(err) != access.CodeAzureUnavailable {
			t.Errorf("got %v", err)
		}
		sc.mu.Lock()
		sc.err, sc.panic = nil, true
		sc.mu.Unlock()
		if _, err := s.Broker.RunScan(t.Context(), bt.Admin); access.CodeOf(err) != access.CodeInternal {
			t.Errorf("got %v", err)
		}
		if hs, _, err := s.Broker.Scans(t.Context(), bt.Admin, broker.Page{}); err != nil || len(hs) != 0 {
			t.Errorf("kept: %v, %v", hs, err)
		}
		if _, err := s.Broker.Scan(t.Context(), bt.Admin, broker.Latest); access.CodeOf(err) != access.CodeNotFound {
			t.Errorf("the latest of none: %v", err)
		}
		sc.mu.Lock()
		sc.panic = false
		sc.mu.Unlock()
		if _, err := s.Broker.RunScan(t.Context(), bt.Admin); err != nil {
			t.Error(err)
		}
	})
}

// The schedule goes by the age of the newest scan, also over a restart, and tries again soon after a failure.
func TestScanOnSchedule(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		sc := &scripted{err: errors.New("away")}
		var mu sync.Mutex
		var ids []string
		tell := func(r broker.ScanRecord) {
			mu.Lock()
			defer mu.Unlock()
			ids = append(ids, r.ID)
		}
		s := bt.New(t, bt.Options{Scanner: sc, NoStart: true, Dir: dir, OnScan: tell})
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); s.Broker.ScanOnSchedule(ctx, time.Hour) }()
		time.Sleep(7 * time.Minute) // at 0 and after 6 minutes
		if sc.count() != 2 {
			t.Errorf("after a failure: %d scans, want 2", sc.count())
		}
		sc.mu.Lock()
		sc.err = nil
		sc.mu.Unlock()
		time.Sleep(3*time.Hour + 10*time.Minute)
		mu.Lock()
		told := slices.Clone(ids)
		mu.Unlock()
		if sc.count() != 6 || len(told) != 4 {
			t.Errorf("%d scans, %d told, want 6 and 4", sc.count(), len(told))
		}
		cancel()
		<-done
		s.Stop()
		time.Sleep(20 * time.Minute)

		again := &scripted{}
		s = bt.New(t, bt.Options{Sim: s.Sim, Scanner: again, NoStart: true, Dir: dir, OnScan: tell})
		defer s.Stop()
		ctx, cancel = context.WithCancel(t.Context())
		done = make(chan struct{})
		go func() { defer close(done); s.Broker.ScanOnSchedule(ctx, time.Hour) }()
		time.Sleep(time.Minute)
		mu.Lock()
		told = slices.Clone(ids)
		mu.Unlock()
		if again.count() != 0 || len(told) != 5 || told[4] != told[3] {
			t.Errorf("after a restart: %d scans, told %v", again.count(), told)
		}
		time.Sleep(time.Hour)
		if again.count() != 1 {
			t.Errorf("after a restart and an hour: %d scans, want 1", again.count())
		}
		cancel()
		<-done
	})
}

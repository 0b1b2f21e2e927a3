package scan_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// completes holds a lean judgement, completed, against the full one: the same bytes, in any order and from several goroutines.
func completes(t *testing.T, e *estate.Estate, o scan.Options) {
	t.Helper()
	full := scan.Scan(e, o)
	o.Lean = true
	lean := scan.Scan(e, o)
	if len(lean.Findings) != len(full.Findings) || fmt.Sprint(lean.Summary) != fmt.Sprint(full.Summary) {
		t.Fatalf("lean: %d findings, %+v; full: %d, %+v", len(lean.Findings), lean.Summary, len(full.Findings), full.Summary)
	}
	for i := range lean.Findings {
		shortened(t, &lean.Findings[i], &full.Findings[i])
	}
	complete := scan.Complete(e, o)
	var wg sync.WaitGroup
	for part := range 2 {
		wg.Go(func() {
			for i := len(lean.Findings) - 1 - part; i >= 0; i -= 2 {
				complete(&lean.Findings[i])
				complete(&lean.Findings[i])
			}
		})
	}
	wg.Wait()
	if !bytes.Equal(encoded(t, lean), encoded(t, full)) {
		for i := range lean.Findings {
			if a, b := encoded(t, lean.Findings[i]), encoded(t, full.Findings[i]); !bytes.Equal(a, b) {
				t.Fatalf("completed:\n%s\nfull:\n%s", a, b)
			}
		}
		t.Fatal("the reports differ beside their findings")
	}
}

// shortened asserts that a lean finding is the full one but for what it leaves out: the ports and rules of what fails are those of the
// full one, which is what a baseline and the metrics of a server go by.
func shortened(t *testing.T, lean, full *scan.Finding) {
	t.Helper()
	want := *full
	want.Evidence = scan.Evidence{}
	if full.Status == scan.Fail || full.Status == scan.Unknown {
		want.Evidence.Rules = full.Evidence.Rules
		for _, p := range full.Evidence.Ports {
			p.Ways, p.Open = nil, nil
			want.Evidence.Ports = append(want.Evidence.Ports, p)
		}
	}
	if a, b := encoded(t, lean), encoded(t, want); !bytes.Equal(a, b) {
		t.Fatalf("lean:\n%s\nwanted:\n%s", a, b)
	}
}

func encoded(t *testing.T, v any) []byte {
	t.Helper()
	b, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// The demo and a large estate, with and without what passes, by all rules and by one.
func TestCompleteGivesTheFullJudgement(t *testing.T) {
	var file bytes.Buffer
	if err := estates.WriteLarge(&file, estates.LargeOptions{VMs: 600, NSGs: 60, Rules: 10, Subscriptions: 3}); err != nil {
		t.Fatal(err)
	}
	for name, body := range map[string][]byte{"demo": estates.Demo(), "large": file.Bytes()} {
		e, err := estate.Read(bytes.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		for _, o := range []scan.Options{{}, {All: true, SingleVMs: true}, {Rules: []scan.RuleID{scan.VMPortExposed, scan.RuleOverdue}}, {All: true, Ports: []uint16{80, 443}}} {
			t.Run(fmt.Sprintf("%s %t %v %v", name, o.All, o.Rules, o.Ports), func(t *testing.T) {
				o.Now = noon
				completes(t, e, o)
			})
		}
	}
}

// What the estate does not say is left alone: a finding of another estate, of another verdict, of a rule that does not exist.
func TestCompleteLeavesStrangersAlone(t *testing.T) {
	w := newWorld()
	w.vm("open", 4, w.nsg("open-nsg", "ssh 300 Allow Tcp * * 22"), "20.1.2.3")
	e := w.estate(t)
	complete := scan.Complete(e, scan.Options{Now: noon})
	r := scan.Scan(e, scan.Options{Now: noon, Lean: true})
	if len(r.Findings) == 0 {
		t.Fatal("nothing fails")
	}
	for what, change := range map[string]func(*scan.Finding){
		"other resource": func(f *scan.Finding) { f.Resource += "-2" },
		"other id":       func(f *scan.Finding) { f.ID = "f-aaaaaaaaaa" },
		"other status":   func(f *scan.Finding) { f.Status = scan.Pass },
		"other exposure": func(f *scan.Finding) { f.Evidence.Ports[0].Exposure, f.Reason = scan.ExposedSome, "because" },
		"other port":     func(f *scan.Finding) { f.Evidence.Ports[0].Port, f.Reason = 80, "because" },
		"other reason":   func(f *scan.Finding) { f.Evidence.Ports, f.Reason = nil, "because" },
		"no such rule":   func(f *scan.Finding) { f.Rule = "vm-blue" },
		"other type":     func(f *scan.Finding) { f.Type = "Microsoft.Compute/disks" },
	} {
		f := r.Findings[0]
		f.Evidence.Ports = slices.Clone(f.Evidence.Ports)
		change(&f)
		before := encoded(t, f)
		if complete(&f); !bytes.Equal(encoded(t, f), before) {
			t.Errorf("%s: it became %s", what, encoded(t, f))
		}
	}
	f := r.Findings[0]
	if complete(&f); len(f.Evidence.Ports) == 0 || len(f.Evidence.Ports[0].Ways) == 0 {
		t.Errorf("its own is not completed: %+v", f.Evidence)
	}
}

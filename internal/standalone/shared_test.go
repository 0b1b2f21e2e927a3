package standalone_test

import (
	"bytes"
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
	"github.com/curfew-jit/curfew/internal/testkit"
)

const shared = "/subscriptions/" + estates.DemoLab + "/resourceGroups/lab/providers/Microsoft.Network/networkSecurityGroups/shared-nsg"

func TestMain(m *testing.M) {
	// The command line is parsed later, and wins.
	for name, value := range map[string]string{"rapid.checks": strconv.Itoa(testkit.Count(8, 150)), "rapid.nofailfile": "true"} {
		if err := flag.Set(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}

// Rules before which there is no place.
var (
	everything = estates.Rule{Name: "open", Priority: 100, Source: "Internet", Ports: []string{"22", "443"}, Description: "Ours, ticket 7"}
	narrow     = estates.Rule{Name: "open", Priority: 100, Source: "Internet", Port: "22", Destination: "10.1.0.0/24"}
)

// sharedWorld is an estate of three machines behind one group whose first rule must be replaced to shut any of them.
func sharedWorld(t *testing.T, open estates.Rule) *world {
	t.Helper()
	e := estates.New()
	e.Subscription(estates.DemoLab, "Lab")
	e.Group("lab", "westeurope")
	nsg := e.NSG("shared-nsg", open,
		estates.Allow("late", 2000, "22", "*"))
	net := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "default", Prefix: "10.1.0.0/24"})
	for i := range 3 {
		e.VM(fmt.Sprintf("vm-%d", i+1), estates.VM{Subnet: net + "/subnets/default", PrivateIP: fmt.Sprintf("10.1.0.1%d", i+1), PublicIP: fmt.Sprintf("198.51.100.1%d", i+1), NSG: nsg})
	}
	s, err := sim.New(sim.Config{Estate: e.JSON()})
	if err != nil {
		t.Fatal(err)
	}
	return &world{t: t, sim: s}
}

// P3: a rule that two machines need out of the way comes back with the end of the last one.
func TestOneRuleReplacedForTwo(t *testing.T) {
	w, undo := sharedWorld(t, everything), undoFile(t)
	before := w.rules(shared)
	w.must(w.protect(undo, "vm-1", "shared-nsg/open"))
	w.must(w.protect(undo, "vm-2", "shared-nsg/open"))
	_, notes, err := w.unprotect(undo, "vm-1")
	if err != nil || !strings.Contains(strings.Join(notes, "\n"), "stays replaced") {
		t.Fatalf("got %v, notes %q", err, notes)
	}
	s := w.open(undo)
	if v, err := s.VM(t.Context(), "vm-2"); err != nil || v.State != "protected" {
		t.Errorf("vm-2 is %s, %v", v.State, err)
	}
	s.Close()
	w.must(w.unprotect(undo, "vm-2"))
	same(t, before, w.rules(shared))
}

func same(t interface{ Errorf(string, ...any) }, want, got map[string]rule) {
	if names(got) != names(want) {
		t.Errorf("got %s, want %s", names(got), names(want))
	}
	for n := range want {
		if !bytes.Equal(got[n].raw, want[n].raw) {
			t.Errorf("%s: got\n%s\nwant\n%s", n, got[n].raw, want[n].raw)
		}
	}
}

// P4: ending one protection with its undo file does not open a machine that another run protects with another file.
func TestTwoUndoFilesOnOneGroup(t *testing.T) {
	// Of this rule something is left beside it, which tells a run that another one has its original.
	w, one, two := sharedWorld(t, everything), undoFile(t), undoFile(t)
	w.must(w.protect(one, "vm-1", "shared-nsg/open"))
	puts := w.puts
	if _, _, err := w.protect(two, "vm-2", "shared-nsg/open"); access.CodeOf(err) != access.CodeConflict || !strings.Contains(err.Error(), "undo file of that run") || w.puts != puts {
		t.Fatalf("got %v, %d writes", err, w.puts-puts)
	}
	if _, err := os.Stat(two); err == nil {
		t.Error("a refusal wrote an undo file")
	}
	// Of this one nothing is, so that each run keeps what it found.
	w, one, two = sharedWorld(t, narrow), undoFile(t), undoFile(t)
	before := w.rules(shared)
	w.must(w.protect(one, "vm-1", "shared-nsg/open"))
	w.must(w.protect(two, "vm-2", "shared-nsg/open"))
	if _, _, err := w.unprotect(one, "vm-1"); err == nil {
		s := w.open("")
		if v, verr := s.VM(t.Context(), "vm-2"); verr != nil || v.State != "protected" {
			t.Fatalf("vm-2 was opened: %s, %s, %v", v.State, v.Why, verr)
		}
	} else if access.CodeOf(err) != access.CodeConflict {
		t.Fatalf("got %v", err)
	}
	w.must(w.unprotect(two, "vm-2"))
	_, notes, err := w.unprotect(one, "vm-1")
	if err != nil {
		t.Fatalf("got %v, notes %q", err, notes)
	}
	same(t, before, w.rules(shared))
}

// P3, P4, P8: whatever is asked in whatever order, and wherever runs are killed, what was reported as protected stays shut until its
// own end is asked for, and in the end every rule of somebody else's is as it was.
func TestRandomRuns(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := sharedWorld(t, rapid.SampledFrom([]estates.Rule{everything, narrow}).Draw(rt, "rule"))
		dir, err := os.MkdirTemp(t.TempDir(), "")
		if err != nil {
			rt.Fatal(err)
		}
		undo := filepath.Join(dir, "undo.json")
		before := w.rules(shared)
		on := map[string]bool{}
		vms := []string{"vm-1", "vm-2", "vm-3"}
		for range rapid.IntRange(1, 8).Draw(rt, "runs") {
			vm := rapid.SampledFrom(vms).Draw(rt, "vm")
			off := rapid.Bool().Draw(rt, "off")
			kill := rapid.SampledFrom([]string{"no", "no", "before", "after"}).Draw(rt, "kill")
			in := api.ProtectInput{VMs: []string{vm}, Off: off}
			if !off {
				in.Replace = []string{"shared-nsg/open"}
			}
			w.send = func(r *http.Request, next http.RoundTripper) (*http.Response, error) {
				if kill == "no" {
					return next.RoundTrip(r)
				}
				if kill == "after" {
					if res, err := next.RoundTrip(r); err == nil {
						res.Body.Close()
					}
				}
				panic("killed")
			}
			if off {
				delete(on, vm) // asked for: it may be either way from now on
			}
			func() {
				s := w.open(undo)
				defer s.Close()
				defer func() {
					if r := recover(); r != nil && r != "killed" {
						panic(r)
					}
				}()
				_, err := s.Protect(t.Context(), in)
				switch {
				case err == nil && !off:
					on[vm] = true
				case err != nil && !(off && access.CodeOf(err) == access.CodeNotProtected):
					rt.Fatalf("%s off %v: %v", vm, off, err)
				}
			}()
			w.send = nil
			s := w.look(undo)
			for vm := range on {
				if v, err := s.VM(t.Context(), vm); err != nil || v.State != "protected" {
					rt.Fatalf("%s is %s: %s, %v", vm, v.State, v.Why, err)
				}
			}
			s.Close()
		}
		for _, vm := range vms {
			if _, _, err := w.unprotect(undo, vm); err != nil && access.CodeOf(err) != access.CodeNotProtected {
				rt.Fatalf("the end of %s: %v", vm, err)
			}
		}
		same(rt, before, w.rules(shared))
	})
}

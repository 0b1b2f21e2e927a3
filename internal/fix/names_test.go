package fix_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/fix"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// twins has machines of one name behind groups of one name: in two resource groups of a subscription and in one of another; and one machine
// behind two such groups, of its subnet and of its interface. No group has room before its first rule.
func twins(t *testing.T) (w *world, groups []string) {
	e := estates.New()
	open := estates.Rule{Name: "open", Priority: 100, Source: "Internet", Ports: []string{"22", "443"}}
	net := func(group, prefix, nsg string) string {
		return e.VNet("vnet-"+group, []string{prefix + ".0.0/16"}, estates.Subnet{Name: "web", Prefix: prefix + ".1.0/24", NSG: nsg}) + "/subnets/web"
	}
	one := func(group, prefix string, n int) {
		e.Group(group, "westeurope")
		sub := net(group, prefix, "")
		g := e.NSG("same-nsg", open)
		groups = append(groups, g)
		e.VM("vm", estates.VM{Subnet: sub, PrivateIP: prefix + ".1.4", PublicIP: fmt.Sprintf("198.51.100.%d", n), NSG: g})
	}
	e.Subscription(estates.DemoShop, "Shop")
	one("a", "10.1", 11)
	one("b", "10.2", 12)
	e.Group("c", "westeurope")
	outer := e.NSG("same-nsg", estates.Allow("outer", 100, "22", "*"))
	e.Group("d", "westeurope")
	sub := net("d", "10.9", outer)
	inner := e.NSG("same-nsg", estates.Allow("inner", 100, "22", "*"))
	e.VM("both", estates.VM{Subnet: sub, PrivateIP: "10.9.1.4", PublicIP: "198.51.100.99", NSG: inner})
	e.Subscription(estates.DemoLab, "Lab")
	one("a", "10.3", 13)
	return newWorld(t, e.JSON()), append(groups, outer, inner)
}

// Groups and machines of one name are told apart in every word of a plan: with the resource group, and with the subscription where that is not
// enough. What a plan says to consent to means that rule and no other; a consent that means several is refused (P3).
func TestNamesAreExact(t *testing.T) {
	w, groups := twins(t)
	called := []string{estates.DemoShop + "/a/same-nsg", "b/same-nsg", estates.DemoLab + "/a/same-nsg", "c/same-nsg", "d/same-nsg"}
	fs := w.scan(scan.VMPortExposed, scan.VMJITMissing, scan.NSGRuleBroad)
	p := w.plan(fs, fix.Options{})
	text := show(struct {
		Steps []fix.Step
		Left  []fix.Left
	}{p.Steps, p.Left})
	for rest := text; ; {
		before, after, found := strings.Cut(rest, "same-nsg")
		if !found {
			break
		}
		if !strings.HasSuffix(before, "/") {
			t.Errorf("a group is not told apart: …%ssame-nsg%s…", before[max(0, len(before)-60):], after[:min(40, len(after))])
		}
		rest = after
	}
	titles := map[string]bool{}
	for _, l := range p.Left {
		if what := string(l.Rule) + " " + l.Name; titles[what] {
			t.Errorf("two things are called %s: %s", what, show(p.Left))
		} else {
			titles[what] = true
		}
	}
	for i, g := range groups {
		n, err := w.client().NSG(t.Context(), g)
		if err != nil {
			t.Fatal(err)
		}
		want := "--replace-rule " + called[i] + "/" + n.Rules[0].Name
		if !slices.ContainsFunc(p.Left, func(l fix.Left) bool { return strings.Contains(l.Next, want) }) {
			t.Errorf("%q is not offered: %s", want, show(p.Left))
		}
	}
	// Each consent, as it was offered, changes that group alone.
	for _, l := range p.Left {
		at := strings.Index(l.Next, "--replace-rule ")
		if at < 0 {
			t.Errorf("no consent would help: %+v", l)
			continue
		}
		ref, _, _ := strings.Cut(l.Next[at+len("--replace-rule "):], " ")
		ref = strings.TrimRight(ref, ",")
		mine := slices.IndexFunc(called, func(c string) bool { return strings.HasPrefix(ref, c+"/") })
		if mine < 0 {
			t.Errorf("%s names none of the groups", ref)
			continue
		}
		w, _ := twins(t)
		one := slices.DeleteFunc(w.scan(l.Rule), func(x scan.Finding) bool { return x.ID != l.Finding })
		before := make([]string, len(groups))
		for i, g := range groups {
			before[i] = w.rules(g)
		}
		_, out := w.fix(one, fix.Options{ReplaceRules: []string{ref}})
		for i, g := range groups {
			if changed := w.rules(g) != before[i]; changed && i != mine || !changed && i == mine && len(out.Fixed) > 0 {
				t.Errorf("%s: with %s %s is %s", l.Rule, ref, g, w.rules(g))
			}
		}
		if azure.EqualID(l.Resource, groups[4]) && len(out.Fixed) != 1 {
			t.Errorf("%s: with %s still open: %s", l.Rule, ref, show(out.Open))
		}
	}
	for _, ref := range []string{"same-nsg/open", "a/same-nsg/open"} {
		_, err := w.fixer().Plan(t.Context(), fs, fix.Options{ReplaceRules: []string{ref}})
		if access.CodeOf(err) != access.CodeAmbiguous {
			t.Errorf("%s: %v", ref, err)
		}
	}
	for ref, code := range map[string]access.Code{"same-nsg/inner": "", "b/same-nsg/open": "", groups[0] + "/securityRules/open": "", called[2] + "/open": "", "open": access.CodeInvalid} {
		if _, err := w.fixer().Plan(t.Context(), fs, fix.Options{ReplaceRules: []string{ref}}); access.CodeOf(err) != code && (err != nil || code != "") {
			t.Errorf("%s: %v", ref, err)
		}
	}
}

// What was written, and what is given back, is called the same.
func TestNamesOfWhatIsGivenBack(t *testing.T) {
	w, _ := twins(t)
	fs := w.scan(scan.VMPortExposed)
	_, out := w.fix(fs, fix.Options{ReplaceRules: []string{estates.DemoShop + "/a/same-nsg/open", "b/same-nsg/open", estates.DemoLab + "/a/same-nsg/open", "c/same-nsg/outer"}})
	if !out.Complete() {
		t.Fatal(show(out))
	}
	titles := map[string]bool{}
	for _, s := range out.Steps {
		titles[s.Title] = true
	}
	if len(titles) != 4 {
		t.Errorf("4 steps are called %v", titles)
	}
	u, err := w.fixer().Undo(t.Context(), true)
	if err != nil {
		t.Fatal(err)
	}
	back := map[string]bool{}
	for _, d := range u.Done {
		back[d.Title] = true
	}
	if len(back) != len(u.Done) || !back["b/same-nsg/open"] {
		t.Errorf("%d changes to give back are called %v", len(u.Done), back)
	}
}

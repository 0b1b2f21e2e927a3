package collect_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/scan/collect"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// basket keeps what a collection hands over.
type basket struct {
	mu     sync.Mutex
	bodies map[string]string // by key of the id
	twice  []string
	gaps   []estate.Gap
	refuse string // ids that hold this are refused
}

func (b *basket) Add(body []byte) error {
	var head struct{ ID, Type string }
	if err := json.Unmarshal(body, &head); err != nil || head.ID == "" || head.Type == "" {
		return fmt.Errorf("%.80s is no resource", body)
	}
	if b.refuse != "" && strings.Contains(head.ID, b.refuse) {
		return errors.New("refused")
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.bodies == nil {
		b.bodies = map[string]string{}
	}
	k := azure.Key(head.ID)
	if _, ok := b.bodies[k]; ok {
		b.twice = append(b.twice, k)
	}
	b.bodies[k] = string(body)
	return nil
}

func (b *basket) Hide(g estate.Gap) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gaps = append(b.gaps, g)
}

// ids of a type, by what the ids say.
func (b *basket) ids(typ string) []string {
	var out []string
	for k := range b.bodies {
		if id, err := azure.ParseID(k); err == nil && id.Is(typ) {
			out = append(out, k)
		}
	}
	slices.Sort(out)
	return out
}

func (b *basket) all() []string { return slices.Sorted(maps.Keys(b.bodies)) }

type bench struct {
	*sim.Sim
	notes    []string
	progress []collect.Progress
}

func newSim(t testing.TB, cfg sim.Config) *bench {
	t.Helper()
	if cfg.Estate == nil {
		cfg.Estate = estates.Demo()
	}
	cfg.RequestLog = 1 << 16
	s, err := sim.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	return &bench{Sim: s}
}

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (b *bench) client(t testing.TB, wrap func(http.RoundTripper) http.RoundTripper) *azure.Client {
	t.Helper()
	rt := b.Transport()
	if wrap != nil {
		rt = wrap(rt)
	}
	c, err := azure.New(azure.Options{Cloud: azure.Public, Credential: azure.StaticToken(b.Token()), Transport: &http.Client{Transport: rt}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// collect runs a collection and fails the test when it fails.
func (b *bench) collect(t testing.TB, c collect.Config) *basket {
	t.Helper()
	out, err := b.try(t, c)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

func (b *bench) try(t testing.TB, c collect.Config) (*basket, error) {
	t.Helper()
	if c.Client == nil {
		c.Client = b.client(t, nil)
	}
	c.Note = func(s string) { b.notes = append(b.notes, s) }
	c.Progress = func(p collect.Progress) { b.progress = append(b.progress, p) }
	out := &basket{}
	_, err := collect.Into(t.Context(), c, out)
	if len(out.twice) > 0 {
		t.Errorf("handed over twice: %v", out.twice)
	}
	return out, err
}

// calls counts the requests by kind.
func (b *bench) calls() map[string]int {
	out := map[string]int{}
	for _, r := range b.Requests() {
		out[kindOf(r.Path)]++
	}
	return out
}

var perResource = regexp.MustCompile(`(?i)/(virtualMachines|networkInterfaces|networkSecurityGroups|publicIPAddresses)/[^/]+`)

func kindOf(path string) string {
	p := strings.ToLower(path)
	switch {
	case strings.HasSuffix(p, "/microsoft.resourcegraph/resources"):
		return "graph"
	case p == "/subscriptions":
		return "subscriptions"
	case strings.HasSuffix(p, "/jitnetworkaccesspolicies"):
		return "jit"
	case strings.HasSuffix(p, "/listnetworkmanagereffectivesecurityadminrules"):
		return "admin"
	case strings.Contains(p, "/virtualmachinescalesets/") && strings.HasSuffix(p, "/virtualmachines"):
		return "instances"
	case perResource.MatchString(p):
		return "each " + path
	}
	return "other " + path
}

// uniform adds a Uniform scale set of one instance whose model announces termination, or not.
func uniform(announces bool, mode string) []byte {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "one")
	e.Group("app", "westeurope")
	profile := `{}`
	if announces {
		profile = `{"terminateNotificationProfile":{"enable":true,"notBeforeTimeout":"PT10M"}}`
	}
	set := e.ID("Microsoft.Compute/virtualMachineScaleSets", "web")
	return fmt.Appendf(nil, `{"resources":[{"id":%q,"location":"westeurope","sku":{"name":"Standard_D2s_v5","capacity":1},"properties":{"orchestrationMode":"Uniform","upgradePolicy":{"mode":%q},
		"virtualMachineProfile":{"scheduledEventsProfile":%s}}},
		{"id":%q,"name":"web_0","location":"westeurope","properties":{"latestModelApplied":false,"instanceId":"0"}}]}`, set, mode, profile, set+"/virtualMachines/0")
}

// Resource Graph and the lists of the resource providers give the same resources, and nothing is hidden.
func TestBothWaysGiveTheSameResources(t *testing.T) {
	graph := newSim(t, sim.Config{}).collect(t, collect.Config{})
	arm := newSim(t, sim.Config{}).collect(t, collect.Config{ViaARM: true})
	if len(graph.gaps)+len(arm.gaps) > 0 {
		t.Fatalf("gaps: %v and %v", graph.gaps, arm.gaps)
	}
	if a, b := graph.all(), arm.all(); !slices.Equal(a, b) || len(a) < 50 {
		t.Fatalf("Resource Graph gives %d resources, the lists %d:\n%s\n\n%s", len(a), len(b), strings.Join(a, "\n"), strings.Join(b, "\n"))
	}
	for _, typ := range []string{"Microsoft.Compute/virtualMachines", "Microsoft.Network/networkInterfaces", "Microsoft.Network/networkSecurityGroups",
		"Microsoft.Network/virtualNetworks", "Microsoft.Network/virtualNetworks/networkManagerEffectiveSecurityAdminRules"} {
		if len(graph.ids(typ)) == 0 {
			t.Errorf("there is no %s", typ)
		}
	}
}

// What is asked of Azure is counted: pages, one list of policies for each subscription, one call for each network under a manager, one
// for each scale set that must be read, and nothing for each machine.
func TestCallsAreCounted(t *testing.T) {
	var body strings.Builder
	if err := estates.WriteLarge(&body, estates.LargeOptions{VMs: 2400, NSGs: 240, Rules: 10, Subscriptions: 20}); err != nil {
		t.Fatal(err)
	}
	b := newSim(t, sim.Config{Estate: []byte(body.String())})
	got := b.collect(t, collect.Config{})
	if n := len(got.ids("Microsoft.Compute/virtualMachines")); n != 2400 {
		t.Errorf("%d machines were read, want 2400", n)
	}
	calls := b.calls()
	pages := (len(got.bodies) + 999) / 1000
	// Beside full pages: the count, the memberships, and one page that is not full for each further part of the question.
	if calls["graph"] < pages || calls["graph"] > pages+2+2 {
		t.Errorf("%d queries for %d resources, want about %d", calls["graph"], len(got.bodies), pages)
	}
	delete(calls, "graph")
	if want := map[string]int{"subscriptions": 1, "jit": 20}; !maps.Equal(calls, want) {
		t.Errorf("further calls: %v, want %v", calls, want)
	}

	b = newSim(t, sim.Config{}) // two networks of the demo are under a manager, two scale sets announce termination
	got = b.collect(t, collect.Config{})
	calls = b.calls()
	if calls["admin"] != 2 || calls["jit"] != 2 || calls["graph"] != 3 || calls["instances"] != 2 || len(calls) != 5 {
		t.Errorf("calls for the demo: %v", calls)
	}
	if last := b.progress[len(b.progress)-1]; !last.Done || last.Calls != last.CallsAll || last.Rows != last.RowsTotal || last.Rows == 0 {
		t.Errorf("the last progress is %+v", last)
	}
}

// Instances are read of those sets alone whose verdict depends on them.
func TestInstancesOfScaleSets(t *testing.T) {
	for _, c := range []struct {
		name      string
		announces bool
		mode      string
		want      int
	}{{"announces, manual", true, "Manual", 1}, {"announces, automatic", true, "Automatic", 1}, {"silent", false, "Manual", 0}} {
		for _, arm := range []bool{false, true} {
			b := newSim(t, sim.Config{Estate: uniform(c.announces, c.mode)})
			got := b.collect(t, collect.Config{ViaARM: arm})
			if n := len(got.ids("Microsoft.Compute/virtualMachineScaleSets/virtualMachines")); n != c.want || b.calls()["instances"] != c.want {
				t.Errorf("%s, arm %t: %d instances by %d calls, want %d", c.name, arm, n, b.calls()["instances"], c.want)
			}
		}
	}
}

// A source that Azure refuses hides what it holds, there, and nothing else (P10).
func TestRefusalsHideExactlyWhatTheyHide(t *testing.T) {
	forbid := func(pattern string) sim.Fault {
		return sim.Fault{Kind: "error", Status: 403, Code: "AuthorizationFailed", PathPattern: pattern}
	}
	whole := newSim(t, sim.Config{}).collect(t, collect.Config{})
	vnet := whole.ids("Microsoft.Network/virtualNetworks/networkManagerEffectiveSecurityAdminRules")[0]
	vnet = azure.ParentID(vnet)
	for _, c := range []struct {
		name string
		arm  bool
		f    sim.Fault
		want estate.Gap
		less func(id azure.ID) bool // what is not read then
	}{
		{"policies of one subscription", false, forbid(estates.DemoLab + "/providers/Microsoft.Security/"),
			estate.Gap{Subscription: estates.DemoLab, Type: "microsoft.security/locations/jitnetworkaccesspolicies"},
			func(id azure.ID) bool {
				return id.Subscription == estates.DemoLab && id.Is("Microsoft.Security/locations/jitNetworkAccessPolicies")
			}},
		{"admin rules of one network", false, forbid(vnet + "/list"),
			estate.Gap{Subscription: estates.DemoLab, Resource: vnet, Type: "microsoft.network/virtualnetworks/networkmanagereffectivesecurityadminrules"},
			func(id azure.ID) bool { return id.Names[0] == azure.IDName(vnet) && len(id.Names) == 2 }},
		{"one list", true, forbid(estates.DemoLab + "/providers/Microsoft.Network/networkInterfaces$"),
			estate.Gap{Subscription: estates.DemoLab, Type: "microsoft.network/networkinterfaces"},
			func(id azure.ID) bool {
				return id.Subscription == estates.DemoLab && id.Is("Microsoft.Network/networkInterfaces")
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			b := newSim(t, sim.Config{})
			if _, err := b.Fault(c.f); err != nil {
				t.Fatal(err)
			}
			got := b.collect(t, collect.Config{ViaARM: c.arm})
			if len(got.gaps) != 1 {
				t.Fatalf("gaps: %+v, want one", got.gaps)
			}
			g := got.gaps[0]
			if g.Subscription != c.want.Subscription || !strings.EqualFold(g.Resource, c.want.Resource) || g.Type != c.want.Type || !g.NotAuthorized || g.Reason == "" || g.Source == "" {
				t.Errorf("gap %+v, want %+v", g, c.want)
			}
			for _, k := range whole.all() {
				id, err := azure.ParseID(k)
				if err != nil {
					t.Fatal(err)
				}
				if _, read := got.bodies[k]; read == c.less(id) {
					t.Errorf("%s: read is %t", k, read)
				}
			}
		})
	}
}

// A body that the sink refuses is a gap that names it, and the rest is read.
func TestARefusedBodyIsAGap(t *testing.T) {
	b := newSim(t, sim.Config{})
	out := &basket{refuse: "payroll-nsg"}
	if _, err := collect.Into(t.Context(), collect.Config{Client: b.client(t, nil)}, out); err != nil {
		t.Fatal(err)
	}
	if len(out.gaps) != 1 || azure.IDName(out.gaps[0].Resource) != "payroll-nsg" || out.gaps[0].Type != "microsoft.network/networksecuritygroups" || out.gaps[0].Subscription == "" {
		t.Errorf("gaps: %+v", out.gaps)
	}
}

// Faults that pass change nothing of the outcome; faults that stay send it to the resource providers (P10: never a short list).
func TestFaultsOfResourceGraph(t *testing.T) {
	const graph = "Microsoft.ResourceGraph/resources$"
	whole := newSim(t, sim.Config{}).collect(t, collect.Config{}).all()
	for _, c := range []struct {
		name  string
		f     sim.Fault
		notes string
	}{
		{"throttled, told when", sim.Fault{Kind: "throttle", PathPattern: graph, Count: 2, RetryAfter: 3 * time.Second}, ""},
		{"throttled, not told when", sim.Fault{Kind: "throttle", PathPattern: graph, Count: 3}, ""},
		{"cut off", sim.Fault{Kind: "truncated", PathPattern: graph, Count: 2}, ""},
		{"not JSON", sim.Fault{Kind: "not-json", PathPattern: graph, Count: 2}, ""},
		{"slow", sim.Fault{Kind: "slow", PathPattern: graph, Delay: 20 * time.Second}, ""},
		{"cut off for good", sim.Fault{Kind: "truncated", PathPattern: graph}, "asked instead"},
		{"forbidden", sim.Fault{Kind: "error", Status: 403, Code: "AuthorizationFailed", PathPattern: graph}, "asked instead"},
		{"only the first answers", sim.Fault{Kind: "error", Status: 500, PathPattern: graph, Skip: 1}, "asked instead"},
		{"memberships are not known", sim.Fault{Kind: "error", Status: 400, Code: "BadRequest", PathPattern: graph, BodyPattern: "networkgroupmemberships"}, "each is asked"},
		{"the short question is not known", sim.Fault{Kind: "error", Status: 400, Code: "BadRequest", PathPattern: graph, BodyPattern: "bag_pack"}, "whole bodies"},
		{"lists are throttled", sim.Fault{Kind: "throttle", PathPattern: "jitNetworkAccessPolicies$", Count: 2}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newSim(t, sim.Config{})
				if _, err := b.Fault(c.f); err != nil {
					t.Fatal(err)
				}
				got := b.collect(t, collect.Config{})
				if len(got.gaps) > 0 {
					t.Errorf("gaps: %+v", got.gaps)
				}
				if all := got.all(); !slices.Equal(all, whole) {
					t.Errorf("%d resources were read, want %d", len(all), len(whole))
				}
				if notes := strings.Join(b.notes, "\n"); (c.notes == "") != (notes == "") || !strings.Contains(notes, c.notes) {
					t.Errorf("notes: %q, want %q", notes, c.notes)
				}
			})
		})
	}
}

// few is how many rows a page holds in tests of many pages: a tenth of what Azure gives, and so a tenth of the time.
const few = 100

// large is an estate of several pages in several parts, where a page is few.
func large(t testing.TB) []byte {
	t.Helper()
	collect.SmallParts(t, 4*few)
	var body strings.Builder
	if err := estates.WriteLarge(&body, estates.LargeOptions{VMs: 360, NSGs: 40, Rules: 2, Subscriptions: 5}); err != nil {
		t.Fatal(err)
	}
	return []byte(body.String())
}

// A part that fails in the middle is read from the resource providers, and what was read of it is not read twice.
func TestAPartThatFailsInTheMiddle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		body := large(t)
		whole := newSim(t, sim.Config{Estate: body, GraphPage: few}).collect(t, collect.Config{}).all()
		b := newSim(t, sim.Config{Estate: body, GraphPage: few})
		if _, err := b.Fault(sim.Fault{Kind: "error", Status: 503, PathPattern: "ResourceGraph", BodyPattern: "skipToken", Skip: 2}); err != nil {
			t.Fatal(err)
		}
		got := b.collect(t, collect.Config{})
		if all := got.all(); !slices.Equal(all, whole) || len(got.gaps) > 0 {
			t.Errorf("%d resources were read, want %d; gaps %v", len(all), len(whole), got.gaps)
		}
	})
}

// With Azure's quota on, nothing is refused, and waiting takes no longer than the quota asks for.
func TestTheQuotaIsKept(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newSim(t, sim.Config{Estate: manyVMs(45 * few), GraphPage: few, GraphQuota: true})
		collect.SmallParts(t, 4*few)
		start := time.Now()
		// A page takes its time, so that the seconds in which the quota is told do not fall on whole ones.
		if _, err := b.Fault(sim.Fault{Kind: "slow", PathPattern: "ResourceGraph", Delay: 170 * time.Millisecond}); err != nil {
			t.Fatal(err)
		}
		b.collect(t, collect.Config{})
		queries := 0
		for _, r := range b.Requests() {
			if kindOf(r.Path) != "graph" {
				continue
			}
			queries++
			if r.Status == 429 {
				t.Errorf("query %d was refused", queries)
			}
		}
		alone := time.Duration((queries-1)/15) * 5 * time.Second
		if took := time.Since(start); took > alone*115/100 || queries < 45 {
			t.Errorf("%d queries took %s, and the quota alone asks for %s", queries, took, alone)
		}
	})
}

func manyVMs(n int) []byte {
	var b strings.Builder
	b.WriteString(`{"resources":[`)
	for i := range n {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"id":"/subscriptions/00000000-0000-0000-0000-%012d/resourceGroups/g/providers/Microsoft.Compute/virtualMachines/vm-%d","location":"westeurope","properties":{}}`, i%20, i)
	}
	b.WriteString("]}")
	return []byte(b.String())
}

// Subscriptions and management groups are told apart, and what was named and is not seen is a gap or an error (P10).
func TestScope(t *testing.T) {
	prod, lab := estates.DemoShop, estates.DemoLab
	chain := func(name string) string {
		return `"properties":{"managementGroupAncestorsChain":[{"name":"` + name + `"},{"name":"root"}]}`
	}
	three := fmt.Appendf(nil, `{"resources":[{"id":"/subscriptions/%s","displayName":"A",%s},{"id":"/subscriptions/%s","displayName":"B",%s},
		{"id":"/subscriptions/00000000-0000-0000-0000-00000000000c","displayName":"B","state":"Disabled",%s}]}`, prod, chain("left"), lab, chain("right"), chain("right"))
	for _, c := range []struct {
		name          string
		subs, groups  []string
		want          []string
		gap, code, is string
	}{
		{"all that are enabled", nil, nil, []string{prod, lab}, "", "", "left out"},
		{"by id, in capitals", []string{strings.ToUpper(lab)}, nil, []string{lab}, "", "", ""},
		{"by name", []string{"a"}, nil, []string{prod}, "", "", ""},
		{"by a name that two have", []string{"b"}, nil, nil, "", "ambiguous", ""},
		{"one is not seen", []string{prod, "00000000-0000-0000-0000-00000000dead"}, nil, []string{prod}, "00000000-0000-0000-0000-00000000dead", "", ""},
		{"none is seen", []string{"00000000-0000-0000-0000-00000000dead"}, nil, nil, "", "not_found", ""},
		{"a group", nil, []string{"left"}, []string{prod}, "", "", ""},
		{"the group above", nil, []string{"root"}, []string{prod, lab}, "", "", "left out"},
		{"a group and a subscription of another", []string{lab}, []string{"left"}, []string{prod, lab}, "", "", ""},
	} {
		for _, arm := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, arm %t", c.name, arm), func(t *testing.T) {
				b := newSim(t, sim.Config{Estate: three})
				out := &basket{}
				src, err := collect.Into(t.Context(), collect.Config{Client: b.client(t, nil), Subscriptions: c.subs, ManagementGroups: c.groups, ViaARM: arm,
					Note: func(s string) { b.notes = append(b.notes, s) }}, out)
				var shown *access.Error
				if c.code != "" {
					if !errors.As(err, &shown) || string(shown.Code) != c.code || shown.Hint == "" {
						t.Fatalf("error %v, want %s", err, c.code)
					}
					return
				}
				if err != nil {
					t.Fatal(err)
				}
				slices.Sort(c.want)
				if !slices.Equal(src.Subscriptions, c.want) || (src.Kind == "arm") != arm {
					t.Errorf("source %+v, want %v", src, c.want)
				}
				if c.gap == "" && len(out.gaps) > 0 || c.gap != "" && (len(out.gaps) != 1 || out.gaps[0].Subscription != c.gap || out.gaps[0].Type != "") {
					t.Errorf("gaps %+v, want %q", out.gaps, c.gap)
				}
				if notes := strings.Join(b.notes, "\n"); !strings.Contains(notes, c.is) {
					t.Errorf("notes %q, want %q", notes, c.is)
				}
			})
		}
	}
	for _, arm := range []bool{false, true} {
		for _, groups := range [][]string{{"nowhere"}, {"nowhere", "either"}} {
			_, err := newSim(t, sim.Config{Estate: three}).try(t, collect.Config{ManagementGroups: groups, ViaARM: arm})
			if access.CodeOf(err) != access.CodeNotFound || !strings.Contains(err.Error(), strings.Join(groups, ", ")) {
				t.Errorf("groups that do not exist, by lists %t: %v", arm, err)
			}
		}
	}
	for _, arm := range []bool{false, true} { // beside what is read, a group that may not be read is a gap: nobody knows what is in it
		b := newSim(t, sim.Config{Estate: three})
		if _, err := b.Fault(sim.Fault{Kind: "error", PathPattern: "managementGroups|ResourceGraph", Status: 403, Code: "AuthorizationFailed"}); err != nil {
			t.Fatal(err)
		}
		out, err := b.try(t, collect.Config{Subscriptions: []string{prod}, ManagementGroups: []string{"right"}, ViaARM: arm})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.ContainsFunc(out.gaps, func(g estate.Gap) bool {
			return g.Source == "management group right" && g.NotAuthorized && g.Type == ""
		}) {
			t.Errorf("a group that may not be read, by lists %t: gaps %+v", arm, out.gaps)
		}
	}
	if _, err := newSim(t, sim.Config{Estate: []byte(`{"resources":[]}`)}).try(t, collect.Config{}); err == nil || !strings.Contains(err.Error(), "sees no subscription") {
		t.Errorf("nothing is visible: %v", err)
	}
}

// Azure says in a header that it looked into a part of a management group alone: that is a gap (P10).
func TestMoreSubscriptionsThanAzureLooksInto(t *testing.T) {
	b := newSim(t, sim.Config{})
	client := b.client(t, func(next http.RoundTripper) http.RoundTripper {
		return transport(func(r *http.Request) (*http.Response, error) {
			resp, err := next.RoundTrip(r)
			if err == nil && strings.HasSuffix(r.URL.Path, "/resources") {
				resp.Header.Set("x-ms-tenant-subscription-limit-hit", "true")
			}
			return resp, err
		})
	})
	out := b.collect(t, collect.Config{Client: client, ManagementGroups: []string{sim.TenantID}})
	if !slices.ContainsFunc(out.gaps, func(g estate.Gap) bool {
		return strings.Contains(g.Source, "management group") && strings.Contains(g.Reason, "10,000")
	}) {
		t.Errorf("gaps: %+v", out.gaps)
	}
}

// A network that no group names is asked when a manager is seen and no membership is.
func TestAManagerWithoutMemberships(t *testing.T) {
	body := strings.Replace(string(estates.Demo()), `"resources":[`, `"resources":[{"id":"/subscriptions/`+estates.DemoLab+
		`/resourceGroups/lab/providers/Microsoft.Network/networkManagers/m","location":"northeurope","properties":{}},`, 1)
	b := newSim(t, sim.Config{Estate: []byte(body)})
	for _, id := range b.IDs("Microsoft.Network/virtualNetworks/networkManagerEffectiveSecurityAdminRules") {
		if err := b.Delete(id); err != nil {
			t.Fatal(err)
		}
	}
	b.collect(t, collect.Config{})
	if n, want := b.calls()["admin"], len(b.IDs("Microsoft.Network/virtualNetworks")); n != want || want == 0 {
		t.Errorf("%d networks were asked, want %d", n, want)
	}
}

// A collection that is broken off says so, and hides nothing as if it had failed.
func TestBrokenOff(t *testing.T) {
	b := newSim(t, sim.Config{Estate: large(t), GraphPage: few})
	ctx, cancel := context.WithCancel(t.Context())
	var n atomic.Int64
	client := b.client(t, func(next http.RoundTripper) http.RoundTripper {
		return transport(func(r *http.Request) (*http.Response, error) {
			if n.Add(1) == 5 {
				cancel()
			}
			return next.RoundTrip(r)
		})
	})
	if _, err := collect.Into(ctx, collect.Config{Client: client, Parallel: 1}, &basket{}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v, want that it was broken off", err)
	}
}

// The rules of a firewall policy stand apart and are read with one call; where that is refused, they are hidden (P10).
func TestRulesOfFirewallPolicies(t *testing.T) {
	policy := "/subscriptions/" + estates.DemoShop + "/resourceGroups/g/providers/Microsoft.Network/firewallPolicies/hub"
	body := fmt.Appendf(nil, `{"resources":[{"id":%q,"location":"westeurope","properties":{}},{"id":%q,"properties":{"priority":100,"ruleCollections":[]}}]}`,
		policy, policy+"/ruleCollectionGroups/nat")
	for _, arm := range []bool{false, true} {
		b := newSim(t, sim.Config{Estate: body})
		got := b.collect(t, collect.Config{ViaARM: arm})
		if n := len(got.ids("Microsoft.Network/firewallPolicies/ruleCollectionGroups")); n != 1 || len(got.gaps) > 0 {
			t.Errorf("arm %t: %d groups of rules; gaps %+v", arm, n, got.gaps)
		}
		if _, err := b.Fault(sim.Fault{Kind: "error", Status: 403, PathPattern: "ruleCollectionGroups$"}); err != nil {
			t.Fatal(err)
		}
		got = b.collect(t, collect.Config{ViaARM: arm})
		if len(got.gaps) != 1 || !azure.EqualID(got.gaps[0].Resource, policy) || got.gaps[0].Type != "microsoft.network/firewallpolicies/rulecollectiongroups" {
			t.Errorf("arm %t: gaps %+v", arm, got.gaps)
		}
	}
}

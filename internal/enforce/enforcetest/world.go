// Package enforcetest holds every back end to one contract: opening, closing, extending, and all that Azure, other writers and
// time can do meanwhile. The suite runs on the simulator, looks at the state that results and never at the calls made, and judges
// it twice: with netsec, and with a reading of the raw rules that shares nothing with it.
package enforcetest

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

const (
	subscription = "22222222-2222-2222-2222-222222222222"
	installation = "acme"
	client       = "203.0.113.7"
	colleague    = "203.0.113.8"
	stranger     = "198.51.100.66"
)

// World is one simulated Azure with a back end at work in it. Machines: web-01 and web-02 share the group web-nsg on their
// interfaces; app-01 has app-nsg on its interface and back-nsg on its subnet, which it shares with app-02; dual-01 has IPv6 too,
// behind dual-nsg.
type World struct {
	t       *testing.T
	Sim     *sim.Sim
	Azure   *azure.Client // the back end's
	Backend enforce.Backend
	h       Harness
	group   string
	hidden  http.RoundTripper // past whatever watches the back end
	onWrite func()            // after each write request of the back end
	onSend  func()            // before each write request of the back end
}

func newWorld(t *testing.T, h Harness) *World {
	t.Helper()
	e := estates.New()
	e.Subscription(subscription, "prod")
	w := &World{t: t, h: h, group: e.Group("rg", "westeurope")}
	web := e.NSG("web-nsg", estates.Allow("web", 400, "443", "Internet"), estates.Rule{Name: "office", Priority: 410, Protocol: "*", Sources: []string{"192.168.0.0/16", "198.51.100.0/26"}, Ports: []string{"8080", "9000-9100"}})
	back := e.NSG("back-nsg")
	app := e.NSG("app-nsg", estates.Deny("no-telnet", 200, "23", "*"))
	dual := e.NSG("dual-nsg")
	vnet := e.VNet("net", []string{"10.0.0.0/16", "fd00:10::/48"}, estates.Subnet{Name: "front", Prefix: "10.0.0.0/24", Prefix6: "fd00:10::/64"}, estates.Subnet{Name: "back", Prefix: "10.0.1.0/24", NSG: back})
	e.VM("web-01", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.0.0.4", PublicIP: "20.50.0.4", NSG: web})
	e.VM("web-02", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.0.0.5", PublicIP: "20.50.0.5", NSG: web})
	e.VM("app-01", estates.VM{Subnet: vnet + "/subnets/back", PrivateIP: "10.0.1.4", PublicIP: "20.50.1.4", NSG: app})
	e.VM("app-02", estates.VM{Subnet: vnet + "/subnets/back", PrivateIP: "10.0.1.5", PublicIP: "20.50.1.5"})
	e.VM("dual-01", estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: "10.0.0.6", PrivateIPv6: "fd00:10::6", PublicIP: "20.50.0.6", NSG: dual})
	var err error
	if w.Sim, err = sim.New(sim.Config{Now: clock.System{}.Now, Estate: e.JSON()}); err != nil {
		t.Fatal(err)
	}
	w.hidden = w.Sim.Transport()
	// Fields that nobody knows, and tags, must come through every write.
	w.edit("web-nsg", func(body map[string]any) {
		body["tags"] = map[string]any{"owner": "web team"}
		props := body["properties"].(map[string]any)
		props["futureField"] = map[string]any{"kept": []any{1.0, "two"}}
		rules := props["securityRules"].([]any)
		rules[0].(map[string]any)["properties"].(map[string]any)["futureRuleField"] = "kept"
	})
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("CURFEW_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, nil))
	}
	w.Azure = w.client(roundTripper(func(r *http.Request) (*http.Response, error) {
		writes := r.Method == http.MethodPut || r.Method == http.MethodDelete
		if writes && w.onSend != nil {
			w.onSend()
		}
		resp, err := w.hidden.RoundTrip(r)
		if writes && w.onWrite != nil {
			w.onWrite()
		}
		return resp, err
	}), log)
	if w.Backend, err = h.New(w.Azure, installation, clock.System{}, log); err != nil {
		t.Fatal(err)
	}
	return w
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func (w *World) client(rt http.RoundTripper, log *slog.Logger) *azure.Client {
	c, err := azure.New(azure.Options{Cloud: azure.Public, Credential: azure.StaticToken(w.Sim.Token()), Transport: &http.Client{Transport: rt}, Clock: clock.System{}, Log: log,
		OperationTimeout: 2 * time.Minute})
	if err != nil {
		w.t.Fatal(err)
	}
	return c
}

func (w *World) nsg(name string) string {
	return w.group + "/providers/Microsoft.Network/networkSecurityGroups/" + name
}

func (w *World) edit(nsg string, change func(body map[string]any)) {
	w.t.Helper()
	if err := w.Sim.Edit(w.nsg(nsg), func(body map[string]any) error { change(body); return nil }); err != nil {
		w.t.Fatal(err)
	}
}

// editRules is an outside hand on the rules of a group.
func (w *World) editRules(nsg string, change func(rules []map[string]any) []map[string]any) {
	w.t.Helper()
	w.edit(nsg, func(body map[string]any) {
		props := body["properties"].(map[string]any)
		var rules []map[string]any
		for _, r := range props["securityRules"].([]any) {
			rules = append(rules, r.(map[string]any))
		}
		out := []any{}
		for _, r := range change(rules) {
			out = append(out, r)
		}
		props["securityRules"] = out
	})
}

func (w *World) fault(f sim.Fault) {
	w.t.Helper()
	if _, err := w.Sim.Fault(f); err != nil {
		w.t.Fatal(err)
	}
}

func (w *World) lock(level string) (unlock func()) {
	w.t.Helper()
	id := w.group + "/providers/Microsoft.Authorization/locks/l"
	err := w.Sim.Edit(id, func(body map[string]any) error {
		body["id"], body["name"], body["type"] = id, "l", "Microsoft.Authorization/locks"
		body["properties"] = map[string]any{"level": level}
		return nil
	})
	if err != nil {
		w.t.Fatal(err)
	}
	return func() {
		if err := w.Sim.Delete(id); err != nil {
			w.t.Fatal(err)
		}
	}
}

// snapshot reads everything, past whatever disturbs the back end.
func (w *World) snapshot() *inventory.Snapshot {
	w.t.Helper()
	s, err := inventory.Collect(w.t.Context(), w.client(w.hidden, nil), inventory.CollectOptions{ViaARM: true})
	if err != nil {
		w.t.Fatal(err)
	}
	return s
}

func (w *World) machine(name string) inventory.Machine {
	w.t.Helper()
	m, err := w.snapshot().Find(name)
	if err != nil {
		w.t.Fatal(err)
	}
	return m
}

// Reaches judges a TCP packet by netsec and by the dumb reading, which must agree.
func (w *World) Reaches(src, vm string, port int) bool {
	w.t.Helper()
	s := w.snapshot()
	m, err := s.Find(vm)
	if err != nil {
		w.t.Fatal(err)
	}
	from := netip.MustParseAddr(src)
	seen := false
	for _, e := range m.Endpoints {
		for _, a := range e.Addrs {
			if a.Is4() != from.Is4() {
				continue
			}
			clever := s.Path(e).Decide(netsec.Packet{Src: from, Dst: a, SrcPort: 50000, DstPort: uint16(port), Protocol: netsec.TCP, Inbound: true}).Access
			dumb := true
			for _, g := range []string{e.SubnetNSG, e.NICNSG} {
				dumb = dumb && (g == "" || w.letsIn(g, from, a, port))
			}
			if dumb != (clever == netsec.Allow) {
				w.t.Fatalf("%s -> %s:%d: netsec says %v, the dumb reading %v\n%s", src, a, port, clever, dumb, w.dump(e.SubnetNSG, e.NICNSG))
			}
			return dumb
		}
	}
	if !seen {
		w.t.Fatalf("%s has no address of the family of %s", vm, src)
	}
	return false
}

type rawRule struct {
	Name       string `json:"name"`
	Properties struct {
		Priority                   int      `json:"priority"`
		Direction                  string   `json:"direction"`
		Access                     string   `json:"access"`
		Protocol                   string   `json:"protocol"`
		SourceAddressPrefix        string   `json:"sourceAddressPrefix"`
		SourceAddressPrefixes      []string `json:"sourceAddressPrefixes"`
		DestinationAddressPrefix   string   `json:"destinationAddressPrefix"`
		DestinationAddressPrefixes []string `json:"destinationAddressPrefixes"`
		DestinationPortRange       string   `json:"destinationPortRange"`
		DestinationPortRanges      []string `json:"destinationPortRanges"`
	} `json:"properties"`
}

func (w *World) raw(nsg string) []rawRule {
	w.t.Helper()
	body, ok := w.Sim.Get(nsg)
	if !ok {
		return nil
	}
	var n struct {
		Properties struct {
			SecurityRules []rawRule `json:"securityRules"`
		} `json:"properties"`
	}
	if err := json.Unmarshal(body, &n); err != nil {
		w.t.Fatal(err)
	}
	slices.SortFunc(n.Properties.SecurityRules, func(a, b rawRule) int { return cmp.Compare(a.Properties.Priority, b.Properties.Priority) })
	return n.Properties.SecurityRules
}

// letsIn reads the rules of one group as Azure's documentation tells to, one by one.
func (w *World) letsIn(nsg string, src, dst netip.Addr, port int) bool {
	vnet := func(a netip.Addr) bool {
		return netip.MustParsePrefix("10.0.0.0/16").Contains(a) || netip.MustParsePrefix("fd00:10::/48").Contains(a)
	}
	has := func(one string, many []string, a netip.Addr) bool {
		return slices.ContainsFunc(append(slices.Clone(many), one), func(t string) bool {
			switch t {
			case "":
				return false
			case "*":
				return true
			case "Internet":
				return !vnet(a)
			case "VirtualNetwork":
				return vnet(a)
			}
			if p, err := netip.ParsePrefix(t); err == nil {
				return p.Contains(a)
			}
			x, err := netip.ParseAddr(t)
			return err == nil && x == a
		})
	}
	for _, r := range w.raw(nsg) {
		p := r.Properties
		on := slices.ContainsFunc(append(slices.Clone(p.DestinationPortRanges), p.DestinationPortRange), func(t string) bool {
			lo, hi, _ := strings.Cut(t, "-")
			a, _ := strconv.Atoi(lo)
			b, _ := strconv.Atoi(cmp.Or(hi, lo))
			return t == "*" || t != "" && a <= port && port <= b
		})
		if p.Direction == "Inbound" && (p.Protocol == "*" || strings.EqualFold(p.Protocol, "Tcp")) && on && has(p.SourceAddressPrefix, p.SourceAddressPrefixes, src) && has(p.DestinationAddressPrefix, p.DestinationAddressPrefixes, dst) {
			return p.Access == "Allow"
		}
	}
	return vnet(src) && vnet(dst)
}

func (w *World) dump(groups ...string) string {
	var b strings.Builder
	for _, g := range groups {
		if g == "" {
			continue
		}
		fmt.Fprintf(&b, "%s:\n", azure.IDName(g))
		for _, r := range w.raw(g) {
			p := r.Properties
			fmt.Fprintf(&b, "  %4d %s %s %s%v -> %s%v %s%v\n", p.Priority, r.Name, p.Access, p.SourceAddressPrefix, p.SourceAddressPrefixes, p.DestinationAddressPrefix, p.DestinationAddressPrefixes, p.DestinationPortRange, p.DestinationPortRanges)
		}
	}
	return b.String()
}

// Wanted is what is wanted of all places, as the reconciler would put it together.
type Wanted struct {
	shields  []enforce.Shield
	windows  []enforce.Window
	consents []string
	replaced []access.Replacement
	restore  []access.Replacement
}

func (w *World) vm(name string) access.VM {
	m := w.machine(name)
	return access.VM{ID: m.ID, Name: m.Name, VMID: m.VMID}
}

// protect wants port 22 of machines shut.
func (w *World) protect(vms ...string) *Wanted {
	want := &Wanted{}
	for _, v := range vms {
		want.shields = append(want.shields, enforce.Shield{VM: w.vm(v), Ports: access.Port(22), Protocol: access.TCP})
	}
	return want
}

// grant wants a source at port 22 of a machine.
func (w *World) grant(want *Wanted, id, vm, src string, d time.Duration) *Wanted {
	w.t.Helper()
	p, err := access.ParseSource(src)
	if err != nil {
		w.t.Fatal(err)
	}
	want.windows = append(want.windows, enforce.Window{Grant: grantID(id), VM: w.vm(vm), Ports: access.Port(22), Protocol: access.TCP, Source: p,
		End: time.Now().UTC().Add(d).Truncate(time.Second)})
	return want
}

func grantID(id string) access.GrantID {
	return access.GrantID("g-" + strings.Repeat("0", 10-len(id)) + id)
}

func (want *Wanted) without(id string) *Wanted {
	out := *want
	out.windows = slices.DeleteFunc(slices.Clone(want.windows), func(x enforce.Window) bool { return x.Grant == grantID(id) })
	return &out
}

// at is what is wanted of one place.
func (w *World) at(want *Wanted, place string) enforce.Wanted {
	s := w.snapshot()
	out := enforce.Wanted{Consents: want.consents, Replaced: want.replaced, Restore: want.restore,
		Env: netsec.Env{VirtualNetwork: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/16"), netip.MustParsePrefix("fd00:10::/48")}}}
	dsts := func(vm access.VM, ports access.Ports, proto access.Protocol) []netip.Addr {
		m, err := s.Find(vm.ID)
		if err != nil {
			return nil
		}
		places, err := w.Backend.Locate(m, ports, proto)
		if err != nil {
			w.t.Fatal(err)
		}
		for _, p := range places {
			if azure.EqualID(p.ID, place) {
				return p.Addresses
			}
		}
		return nil
	}
	for _, x := range want.shields {
		if x.Destinations = dsts(x.VM, x.Ports, x.Protocol); len(x.Destinations) > 0 {
			out.Shields = append(out.Shields, x)
		}
	}
	for _, x := range want.windows {
		if x.Destinations = dsts(x.VM, x.Ports, x.Protocol); len(x.Destinations) > 0 && time.Now().Before(x.End) {
			out.Windows = append(out.Windows, x)
		}
	}
	return out
}

// sync brings one place up to what is wanted.
func (w *World) sync(want *Wanted, nsg string, change ...func(*enforce.Sync)) (enforce.Result, error) {
	w.t.Helper()
	s := enforce.Sync{Decide: func(context.Context, enforce.Held) (enforce.Wanted, error) { return w.at(want, w.nsg(nsg)), nil },
		Keep: func(context.Context, []access.Replacement) error { return nil }}
	for _, f := range change {
		f(&s)
	}
	return w.Backend.Sync(w.t.Context(), w.nsg(nsg), s)
}

// mustSync also holds that everything wanted stands and nothing else does.
func (w *World) mustSync(want *Wanted, nsg string, change ...func(*enforce.Sync)) enforce.Result {
	w.t.Helper()
	res, err := w.sync(want, nsg, change...)
	if err != nil {
		w.t.Fatalf("sync: %v\n%s", err, w.dump(w.nsg(nsg)))
	}
	if len(res.Problems) > 0 || !res.Clean || !res.Shields {
		w.t.Fatalf("problems %+v, clean %v, shields %v\n%s", res.Problems, res.Clean, res.Shields, w.dump(w.nsg(nsg)))
	}
	for g, ok := range res.After {
		if !ok {
			w.t.Fatalf("%s does not stand after the write\n%s", g, w.dump(w.nsg(nsg)))
		}
	}
	return res
}

func (w *World) open(src, vm string) {
	w.t.Helper()
	if !w.Reaches(src, vm, 22) {
		w.t.Errorf("%s does not reach %s:22\n%s", src, vm, w.dump(w.machine(vm).NSGs()...))
	}
}

func (w *World) shut(src, vm string) {
	w.t.Helper()
	if w.Reaches(src, vm, 22) {
		w.t.Errorf("%s reaches %s:22\n%s", src, vm, w.dump(w.machine(vm).NSGs()...))
	}
}

// foreignBytes is everything of a group that is not Curfew's, as the simulator holds it; etags change with every write.
func (w *World) foreignBytes(nsg string) string {
	w.t.Helper()
	body, _ := w.Sim.Get(w.nsg(nsg))
	var n map[string]any
	if err := json.Unmarshal(body, &n); err != nil {
		w.t.Fatal(err)
	}
	delete(n, "etag")
	props := n["properties"].(map[string]any)
	props["securityRules"] = slices.DeleteFunc(props["securityRules"].([]any), func(r any) bool {
		name := r.(map[string]any)["name"].(string)
		delete(r.(map[string]any), "etag")
		return strings.HasPrefix(name, "curfew-")
	})
	for _, r := range props["defaultSecurityRules"].([]any) {
		delete(r.(map[string]any), "etag")
	}
	out, _ := json.Marshal(n)
	return string(out)
}

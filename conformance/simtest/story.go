package simtest

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"
)

// Rule is a security rule as an observer's client shows it.
type Rule struct {
	Name                string
	Priority            int
	Inbound, Allow      bool
	Protocol            string // "*", "Tcp", …
	Sources             []string
	Destinations, Ports []string
}

// Observer is a client of Azure that Curfew knows nothing of.
type Observer interface {
	// Rules of web-01-nsg, the default ones included.
	Rules(t *testing.T) []Rule
	// Etags of all network security groups of the subscription, by name.
	Etags(t *testing.T) map[string]string
}

// web-01 of the demo's estate has one interface with this address, web-01-nsg on it, and none on its subnet.
var (
	web01 = netip.MustParseAddr("10.10.1.11")
	vnet  = netip.MustParsePrefix("10.10.0.0/16")
)

// decides says what the rules make of a TCP connection to web-01, and by which rule: the first that matches, in order of priority. It
// knows the three tags of the demo's rules and fails on what it does not know. It has nothing of Curfew's own evaluation.
func decides(t *testing.T, rules []Rule, from netip.Addr, port int) (bool, string) {
	t.Helper()
	sorted := slices.SortedFunc(slices.Values(rules), func(a, b Rule) int { return a.Priority - b.Priority })
	covers := func(list []string, a netip.Addr) bool {
		return slices.ContainsFunc(list, func(s string) bool {
			switch s {
			case "*", "0.0.0.0/0":
				return true
			case "VirtualNetwork":
				return vnet.Contains(a)
			case "Internet":
				return !a.IsPrivate()
			case "AzureLoadBalancer":
				return false
			}
			if p, err := netip.ParsePrefix(s); err == nil {
				return p.Contains(a)
			}
			one, err := netip.ParseAddr(s)
			if err != nil {
				t.Fatalf("the observer does not know the address %q", s)
			}
			return one == a
		})
	}
	for _, r := range sorted {
		if !r.Inbound || !slices.Contains([]string{"*", "tcp"}, strings.ToLower(r.Protocol)) || !covers(r.Sources, from) || !covers(r.Destinations, web01) {
			continue
		}
		if slices.ContainsFunc(r.Ports, func(s string) bool {
			lo, hi, ranged := strings.Cut(s, "-")
			if s == "*" {
				return true
			}
			if !ranged {
				hi = lo
			}
			a, errA := strconv.Atoi(lo)
			b, errB := strconv.Atoi(hi)
			if errA != nil || errB != nil {
				t.Fatalf("the observer does not know the ports %q", s)
			}
			return a <= port && port <= b
		}) {
			return r.Allow, r.Name
		}
	}
	t.Fatal("no rule matches, not even a default one")
	return false, ""
}

// The addresses that are tried: the asker's, the other account's, somebody's on the Internet, another machine's, Bastion's.
var probes = map[string]netip.Addr{"requester": netip.MustParseAddr("203.0.113.9"), "requester-2": netip.MustParseAddr("203.0.113.10"),
	"somebody": netip.MustParseAddr("198.51.100.200"), "orders-01": netip.MustParseAddr("10.10.1.21"), "bastion": netip.MustParseAddr("10.10.250.5")}

// look says from where port 22 is open.
func look(t *testing.T, o Observer) string {
	t.Helper()
	rules := o.Rules(t)
	var open []string
	for name, a := range probes {
		if yes, _ := decides(t, rules, a, 22); yes {
			open = append(open, name)
		}
		if yes, by := decides(t, rules, a, 443); !yes {
			t.Errorf("port 443, which is nobody's business, is shut to %s by %s", name, by)
		}
	}
	slices.Sort(open)
	return strings.Join(open, " ")
}

func sees(t *testing.T, o Observer, when, want string) {
	t.Helper()
	got := look(t, o)
	if got != want {
		t.Errorf("%s: the observer sees port 22 open to %q, want %q", when, got, want)
	}
	t.Logf("%s: open to %s", when, got)
}

type grant struct {
	ID     string    `json:"id"`
	Source string    `json:"source"`
	Ready  bool      `json:"ready"`
	Ends   time.Time `json:"ends_at"`
}

// open lists what Curfew says is open.
func (d *Demo) open(t *testing.T) []grant {
	t.Helper()
	var list struct {
		Items []grant `json:"items"`
	}
	if err := json.Unmarshal([]byte(d.Curfew("admin", "grant", "list", "--state", "active", "--json")), &list); err != nil {
		t.Fatal(err)
	}
	return list.Items
}

// ask gets port 22 of web-01 opened for an account, and returns the grant.
func (d *Demo) ask(t *testing.T, account, window string) grant {
	t.Helper()
	before := d.open(t)
	out := d.Curfew(account, "request", "create", "web-01", "--for", window, "--reason", "INC-4711", "--no-wait", "--json")
	id := regexp.MustCompile(`"id": "(r-[0-9a-z]+)"`).FindStringSubmatch(out)
	if id == nil {
		t.Fatalf("no request in %s", out)
	}
	d.Curfew("approver", "approve", id[1])
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		for _, g := range d.open(t) {
			if g.Ready && !slices.ContainsFunc(before, func(b grant) bool { return b.ID == g.ID }) {
				return g
			}
		}
	}
	t.Fatal("nothing was opened in thirty seconds")
	return grant{}
}

// Story is the demo's first story, watched by somebody else: what Curfew says is open the observer sees, and nothing else (P1, P4).
func Story(t *testing.T, d *Demo, o Observer) {
	before := o.Etags(t)
	rulesBefore := o.Rules(t)
	sees(t, o, "as it was", "bastion orders-01 requester requester-2 somebody")

	d.Curfew("admin", "protect", "web-01", "--yes")
	sees(t, o, "protected", "bastion")

	out := d.Curfew("requester", "request", "create", "web-01", "--for", "30m", "--reason", "INC-4710", "--no-wait", "--json")
	sees(t, o, "asked", "bastion")
	id := regexp.MustCompile(`"id": "(r-[0-9a-z]+)"`).FindStringSubmatch(out)
	if id == nil {
		t.Fatalf("no request in %s", out)
	}
	d.Curfew("approver", "deny", id[1], "--comment", "not now")
	sees(t, o, "denied", "bastion")

	first := d.ask(t, "requester", "30m")
	sees(t, o, "approved", "bastion requester")
	second := d.ask(t, "requester-2", "30m")
	sees(t, o, "another approved", "bastion requester requester-2")
	for _, g := range d.open(t) {
		p := netip.MustParsePrefix(g.Source)
		if yes, by := decides(t, o.Rules(t), p.Addr(), 22); !yes {
			t.Errorf("Curfew says that %s is open to %s; the observer sees it shut by %s", g.ID, g.Source, by)
		}
	}
	d.Curfew("requester", "grant", "close", first.ID)
	sees(t, o, "one closed", "bastion requester-2")
	d.Curfew("admin", "grant", "revoke", second.ID, "--comment", "rebuilt")
	sees(t, o, "the other revoked", "bastion")

	d.Curfew("admin", "unprotect", "web-01", "--yes")
	sees(t, o, "unprotected", "bastion orders-01 requester requester-2 somebody")
	if got, want := fmt.Sprint(o.Rules(t)), fmt.Sprint(rulesBefore); got != want {
		t.Errorf("the rules are not those that were there before:\n%s\n%s", got, want)
	}
	after := o.Etags(t)
	delete(before, "web-01-nsg")
	delete(after, "web-01-nsg")
	if len(before) < 5 || !maps.Equal(before, after) {
		t.Errorf("other groups were touched: %v, then %v", before, after)
	}
}

// Window watches a window of five minutes, the shortest there is, to its end (P2).
func Window(t *testing.T, d *Demo, o Observer) {
	d.Curfew("admin", "protect", "web-01", "--yes")
	g := d.ask(t, "requester", "5m")
	sees(t, o, "approved", "bastion requester")
	time.Sleep(time.Until(g.Ends.Add(-3 * time.Second)))
	sees(t, o, "three seconds before the end", "bastion requester")
	for give := g.Ends.Add(15 * time.Second); look(t, o) != "bastion"; time.Sleep(200 * time.Millisecond) {
		if time.Now().After(give) {
			t.Fatalf("fifteen seconds after its end the window is open to %s", look(t, o))
		}
	}
	if time.Now().Before(g.Ends) {
		t.Error("the window was shut before its end")
	}
	t.Logf("seen shut %s after the end", time.Since(g.Ends).Round(time.Millisecond))
	if left := d.open(t); len(left) > 0 {
		t.Errorf("Curfew says that %v is open", left)
	}
}

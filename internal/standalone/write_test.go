package standalone_test

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// crowd counts the writes of groups that are under way, in all and to one group, and answers later groups first.
type crowd struct {
	mu        sync.Mutex
	now       map[string]int
	all, most int
	twice     []string
	first     []string // groups in the order in which their writes ended
	delay     func(nsg string) time.Duration
	refuse    func(nsg string) bool
}

func (c *crowd) send(r *http.Request, next http.RoundTripper) (*http.Response, error) {
	nsg := strings.ToLower(r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:])
	c.mu.Lock()
	if c.now[nsg]++; c.now[nsg] > 1 {
		c.twice = append(c.twice, nsg)
	}
	c.all++
	c.most = max(c.most, c.all)
	c.mu.Unlock()
	defer func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.now[nsg]--
		c.all--
		c.first = append(c.first, nsg)
	}()
	time.Sleep(c.delay(nsg))
	if c.refuse(nsg) {
		return &http.Response{StatusCode: 403, Status: "403 Forbidden", Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1, Request: r, Header: http.Header{"Content-Type": {"application/json"}},
			Body: body(`{"error":{"code":"AuthorizationFailed","message":"` + nsg + ` is not yours"}}`)}, nil
	}
	return next.RoundTrip(r)
}

// Groups are written at the same time, within a limit, and each by one writer; what is told is in the order of the groups and not of the
// replies, and where some are refused the others are written and the first of them is named (P8).
func TestGroupsAreWrittenAtTheSameTime(t *testing.T) {
	const groups = 20
	run := func(t *testing.T, delay func(i int) time.Duration, refuse func(i int) bool) (*crowd, *world, api.ProtectPlan, []string, error) {
		e := estates.New()
		e.Subscription(estates.DemoLab, "Lab")
		e.Group("lab", "westeurope")
		net := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "default", Prefix: "10.1.0.0/24"})
		var in api.ProtectInput
		for i := range groups {
			g := e.NSG(fmt.Sprintf("nsg-%02d", i), estates.Allow("ssh", 1000, "22", "*"), estates.Rule{Name: "curfew-deny-other-tcp-22", Priority: 900, Access: "Deny", Destination: "10.1.0.250", Port: "22"})
			e.VM(fmt.Sprintf("vm-%02d", i), estates.VM{Subnet: net + "/subnets/default", PrivateIP: fmt.Sprintf("10.1.0.%d", 10+i), NSG: g})
			in.VMs = append(in.VMs, fmt.Sprintf("vm-%02d", i))
		}
		s, err := sim.New(sim.Config{Estate: e.JSON()})
		if err != nil {
			t.Fatal(err)
		}
		number := func(nsg string) (i int) {
			if _, err := fmt.Sscanf(nsg, "nsg-%d", &i); err != nil {
				t.Error(err)
			}
			return i
		}
		c := &crowd{now: map[string]int{}, delay: func(nsg string) time.Duration { return delay(number(nsg)) }, refuse: func(nsg string) bool { return refuse(number(nsg)) }}
		w := &world{t: t, sim: s, send: c.send}
		session := w.open("")
		done, err := session.Protect(t.Context(), in)
		return c, w, done, session.Notes(), err
	}
	none := func(int) bool { return false }
	early, w, one, notes, err := run(t, func(i int) time.Duration { return time.Duration(i) * 3 * time.Millisecond }, none)
	late, _, other, same, lerr := run(t, func(i int) time.Duration { return time.Duration(groups-i) * 3 * time.Millisecond }, none)
	if err != nil || lerr != nil {
		t.Fatal(err, lerr)
	}
	for _, c := range []*crowd{early, late} {
		if c.most < 2 || c.most > 8 || len(c.twice) > 0 || len(c.first) != groups {
			t.Errorf("%d writes, %d at once; two at once to %v", len(c.first), c.most, c.twice)
		}
	}
	if slices.Equal(early.first, late.first) {
		t.Error("the replies came in the same order: nothing is shown")
	}
	if fmt.Sprint(one.Changes) != fmt.Sprint(other.Changes) || !slices.Equal(notes, same) || len(notes) != groups {
		t.Errorf("the order of replies shows:\n%v\n%v\n%q\n%q", one.Changes, other.Changes, notes, same)
	}
	for i := range groups {
		if id := fmt.Sprintf("/subscriptions/%s/resourceGroups/lab/providers/Microsoft.Network/networkSecurityGroups/nsg-%02d", estates.DemoLab, i); !strings.Contains(names(w.rules(id)), "curfew-deny-local-tcp-22") {
			t.Errorf("nsg-%02d is not written", i)
		}
	}
	c, w, _, _, err := run(t, func(i int) time.Duration { return time.Duration(groups-i) * 3 * time.Millisecond }, func(i int) bool { return i == 7 || i == 5 || i == 15 })
	if err == nil || !strings.Contains(err.Error(), "nsg-05 could not be written") || w.puts != groups || len(c.twice) > 0 {
		t.Errorf("%d writes, and %v", w.puts, err)
	}
}

// Package brokertest puts a whole Curfew together for tests: broker, reconciler, NSG back end and Azure client over the simulator,
// without sockets, so that it also runs inside testing/synctest.
package brokertest

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/policy"
	"github.com/curfew-jit/curfew/internal/reconcile"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

// Installation is the name under which the stack writes rules.
const Installation = "test01"

// Options of a stack.
type Options struct {
	Estate     []byte      // default: estates.Demo
	Sim        *sim.Sim    // an Azure that outlives the stack; default: a new one
	Clock      clock.Clock // default: the system's (inside a bubble: the bubble's)
	Dir        string      // of the database; default: in memory
	Policy     *policy.Document
	Rules      func() broker.Policy // in place of Policy
	SweepEvery time.Duration
	Expiry     time.Duration // of requests that nobody answers; default: the broker's
	Openers    int           // places written to at once for openings
	OnSend     func(place string, opening bool)
	Transport  func(http.RoundTripper) http.RoundTripper // wraps the way to Azure
	Remote     http.RoundTripper                         // the way to an Azure in another process, instead of Sim
	StoreHooks sqlite.Hooks
	OpDelay    time.Duration
	Scanner    broker.Scanner
	Routes     []notify.Route
	OnScan     func(broker.ScanRecord)
	NoStart    bool         // the reconciler is not run
	Log        *slog.Logger // default: none
}

// Stack is a running Curfew.
type Stack struct {
	T          testing.TB
	Sim        *sim.Sim
	Azure      *azure.Client
	Store      *sqlite.Store
	Broker     *broker.Broker
	Reconciler *reconcile.Reconciler
	Inventory  *inventory.Live
	Backend    *nsg.Backend
	Spool      *audit.Spool
	Clock      clock.Clock

	stop context.CancelFunc
	done chan struct{}
	once sync.Once
}

// People of every stack, named after their roles.
var (
	Requester  = person("requester", "203.0.113.9", access.Requester)
	Requester2 = person("requester-2", "203.0.113.10", access.Requester)
	Approver   = person("approver", "203.0.113.11", access.Approver)
	Approver2  = person("approver-2", "203.0.113.12", access.Approver)
	Both3      = person("both-3", "203.0.113.17", access.Requester, access.Approver)
	Both       = person("both", "203.0.113.13", access.Requester, access.Approver)
	Admin      = person("admin", "203.0.113.14", access.Admin)
	Auditor    = person("auditor", "203.0.113.15", access.Auditor)
	Stranger   = person("stranger", "203.0.113.16")
)

func person(name, addr string, roles ...access.Role) access.Caller {
	return access.Caller{Name: name, Roles: roles, Address: netip.MustParseAddr(addr)}
}

// AnyPolicy lets everybody ask for everything for up to eight hours, with one approval.
var AnyPolicy = policy.Document{Rules: []policy.Rule{{Name: "default"}}}

// Compile makes a policy of a document, and fails the test where it is wrong.
func Compile(t testing.TB, d policy.Document) *policy.Set {
	t.Helper()
	s, err := policy.New(d)
	if err != nil {
		t.Error(err)
		return &policy.Set{}
	}
	return s
}

// New starts a stack; it stops with the test.
func New(t testing.TB, o Options) *Stack {
	t.Helper()
	s, err := Start(t, o)
	must(t, err)
	return s
}

// Start is New for stacks that may fail to start.
func Start(t testing.TB, o Options) (_ *Stack, err error) {
	t.Helper()
	if o.Clock == nil {
		o.Clock = clock.System{}
	}
	if o.Estate == nil {
		o.Estate = estates.Demo()
	}
	if o.Policy == nil {
		o.Policy = &AnyPolicy
	}
	if o.Rules == nil {
		o.Rules = func() broker.Policy { return Compile(t, *o.Policy) }
	}
	s := &Stack{T: t, Sim: o.Sim, Clock: o.Clock, done: make(chan struct{})}
	if s.Sim == nil && o.Remote == nil {
		s.Sim, err = sim.New(sim.Config{Estate: o.Estate, OperationDelay: o.OpDelay})
		if err != nil {
			return nil, err
		}
	}
	rt := o.Remote
	if rt == nil {
		rt = s.Sim.Transport()
	}
	if o.Transport != nil {
		rt = o.Transport(rt)
	}
	log := slog.New(slog.DiscardHandler)
	if os.Getenv("CURFEW_TEST_LOG") != "" {
		log = slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelDebug}))
	}
	if o.Log != nil {
		log = o.Log
	}
	s.Azure, err = NewAzure(rt, o.Clock, log)
	if err != nil {
		return nil, err
	}
	path, spool := sqlite.Memory, ""
	if o.Dir != "" {
		path, spool = filepath.Join(o.Dir, "curfew.db"), filepath.Join(o.Dir, "curfew.spool")
	}
	ctx, cancel := context.WithCancel(context.Background())
	s.stop = cancel
	defer func() {
		if err != nil {
			cancel()
			if s.Spool != nil {
				_ = s.Spool.Close()
			}
			if s.Store != nil {
				_ = s.Store.Close()
			}
		}
	}()
	s.Store, err = sqlite.Open(ctx, sqlite.Options{Path: path, Clock: o.Clock, Hooks: o.StoreHooks, Log: log})
	if err != nil {
		return nil, err
	}
	if spool != "" {
		s.Spool, err = audit.OpenSpool(spool)
	} else {
		s.Spool, err = audit.OpenSpool(filepath.Join(t.TempDir(), "spool"))
	}
	if err != nil {
		return nil, err
	}
	s.Inventory = inventory.NewLive(s.Azure, o.Clock, nil, 5*time.Minute)
	s.Backend, err = nsg.New(nsg.Config{Client: s.Azure, Installation: Installation, Clock: o.Clock, Log: log})
	if err != nil {
		return nil, err
	}
	why, _ := s.Store.Restored()
	s.Broker, err = broker.New(ctx, broker.Config{Installation: Installation, Store: s.Store, Spool: s.Spool, Clock: o.Clock, Inventory: s.Inventory, Backend: s.Backend,
		Policy: o.Rules, Routes: o.Routes, RequestExpiry: o.Expiry, Restored: why, AcceptStore: s.Store.AcceptHead, Log: log,
		Scanner: o.Scanner, OnScan: o.OnScan,
		People: func() []access.Caller {
			return []access.Caller{Requester, Requester2, Approver, Approver2, Both, Both3, Admin, Auditor}
		}})
	if err != nil {
		return nil, err
	}
	s.Reconciler = reconcile.New(reconcile.Config{Installation: Installation, Broker: s.Broker, Backend: s.Backend, Inventory: s.Inventory, Clock: o.Clock,
		SweepEvery: o.SweepEvery, Openers: o.Openers, Log: log, OnSend: o.OnSend, Subscriptions: func(ctx context.Context) ([]string, error) {
			subs, err := s.Azure.Subscriptions(ctx)
			var ids []string
			for _, x := range subs {
				ids = append(ids, x.SubscriptionID)
			}
			return ids, err
		}})
	s.Broker.SetEnforcer(s.Reconciler)
	if o.NoStart {
		close(s.done)
	} else {
		go func() {
			defer close(s.done)
			_ = s.Reconciler.Run(ctx)
		}()
	}
	t.Cleanup(s.Stop)
	return s, nil
}

// NewAzure returns a client of the simulator behind a transport.
func NewAzure(rt http.RoundTripper, c clock.Clock, log *slog.Logger) (*azure.Client, error) {
	cl, err := azure.CustomCloud("https://management.simulated.example", "", "https://login.simulated.example/")
	if err != nil {
		return nil, err
	}
	hc := &http.Client{Transport: rt}
	cred, err := azure.NewCredential(azure.CredentialConfig{Kind: "client-secret", Cloud: cl, TenantID: sim.TenantID, ClientID: sim.ClientID, ClientSecret: sim.ClientSecret, Transport: hc})
	if err != nil {
		return nil, err
	}
	return azure.New(azure.Options{Cloud: cl, Credential: cred, Transport: hc, Clock: c, Log: log})
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Stop ends the stack as a shutdown would; it may be called twice.
func (s *Stack) Stop() {
	s.once.Do(func() {
		s.stop()
		<-s.done
		_ = s.Spool.Close()
		_ = s.Store.Close()
	})
}

// Protect switches the protection of machines on, with whatever consents are named.
func (s *Stack) Protect(vm string, replace ...string) broker.ProtectPlan {
	s.T.Helper()
	plan, err := s.Broker.Protect(s.T.Context(), Admin, broker.ProtectInput{VMs: []string{vm}, Replace: replace})
	must(s.T, err)
	return plan
}

// Ask creates a request of a person for the machine's own management port.
func (s *Stack) Ask(c access.Caller, vm string, d time.Duration) access.Request {
	s.T.Helper()
	r, err := s.Broker.CreateRequest(s.T.Context(), c, broker.RequestInput{VMs: []string{vm}, Duration: d, Reason: "test"})
	must(s.T, err)
	return r
}

// Open asks, approves and waits until the grant is ready.
func (s *Stack) Open(c access.Caller, vm string, d time.Duration) access.Grant {
	s.T.Helper()
	r := s.Ask(c, vm, d)
	r, err := s.Broker.Approve(s.T.Context(), Approver, r.ID, broker.ReviewInput{})
	must(s.T, err)
	return s.WaitGrant(r.Grants[0], func(g access.Grant) bool { return g.Ready() })
}

// Grant reads a grant.
func (s *Stack) Grant(id access.GrantID) access.Grant {
	s.T.Helper()
	g, err := s.Broker.Grant(s.T.Context(), Auditor, id)
	must(s.T, err)
	return g
}

// WaitGrant waits, on the test's clock, until a grant is as asked, for up to two minutes.
func (s *Stack) WaitGrant(id access.GrantID, ok func(access.Grant) bool) access.Grant {
	s.T.Helper()
	var g access.Grant
	for range 2400 {
		g = s.Grant(id)
		if ok(g) {
			return g
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.T.Fatalf("grant %s did not get there: %+v", id, g)
	return g
}

// Rules returns the names of our rules in a group of the simulated Azure, with their whole bodies.
func (s *Stack) Rules(nsgID string) map[string]Rule {
	s.T.Helper()
	if s.Sim == nil {
		return s.remoteRules(nsgID)
	}
	body, ok := s.Sim.Get(nsgID)
	if !ok {
		return nil
	}
	var n struct {
		Properties struct {
			SecurityRules []Rule `json:"securityRules"`
		} `json:"properties"`
	}
	must(s.T, json.Unmarshal(body, &n))
	out := map[string]Rule{}
	for _, r := range n.Properties.SecurityRules {
		out[r.Name] = r
	}
	return out
}

func (s *Stack) remoteRules(nsgID string) map[string]Rule {
	s.T.Helper()
	n, err := s.Azure.NSG(context.Background(), nsgID)
	must(s.T, err)
	out := map[string]Rule{}
	for _, r := range n.Rules {
		out[r.Name] = Rule{Name: r.Name}
	}
	return out
}

// Sleep waits on the stack's clock.
func (s *Stack) Sleep(d time.Duration) { <-s.Clock.After(d) }

// Rule is a rule as the simulator holds it.
type Rule struct {
	Name       string         `json:"name"`
	Properties map[string]any `json:"properties"`
}

// Allows returns the allow rules of ours in a group.
func (s *Stack) Allows(nsgID string) []string {
	var out []string
	for name := range s.Rules(nsgID) {
		if strings.HasPrefix(name, "curfew-allow-") {
			out = append(out, name)
		}
	}
	return out
}

// Machine finds a machine.
func (s *Stack) Machine(ref string) inventory.Machine {
	s.T.Helper()
	snap, err := s.Inventory.Refresh(s.T.Context())
	must(s.T, err)
	m, err := snap.Find(ref)
	must(s.T, err)
	return m
}

// Log returns the whole audit log, oldest first.
func (s *Stack) Log() []audit.Entry {
	s.T.Helper()
	var out []audit.Entry
	after := int64(-1)
	for {
		page, err := s.Broker.Entries(s.T.Context(), Auditor, broker.AuditFilter{Ascending: true, After: after, Limit: 500})
		must(s.T, err)
		if len(page) == 0 {
			return out
		}
		out = append(out, page...)
		after = page[len(page)-1].Index
	}
}

// Has tells whether the log has an entry of an action and outcome about an object ("" is any).
func (s *Stack) Has(action string, o audit.Outcome, object string) bool {
	for _, e := range s.Log() {
		if e.Action == action && e.Outcome == o && (object == "" || e.Object == object) {
			return true
		}
	}
	return false
}

// Dump prints the log, for a failing test.
func (s *Stack) Dump() string {
	var b strings.Builder
	for _, e := range s.Log() {
		fmt.Fprintf(&b, "%4d %s %-18s %-8s %s\n", e.Index, e.At.Format("15:04:05.000"), e.Action, e.Outcome, e.Message)
	}
	return b.String()
}

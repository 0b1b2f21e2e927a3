// Package collect reads what a scan looks at: Resource Graph by pages, what it does not hold from the resource providers, or lists
// of the resource providers alone. It decides nothing about what it reads.
//
// What could not be read is told to the sink as a gap, for exactly what it hides, and is never taken for absent (promise P10). Nothing
// is asked for each machine.
//
// What the identity may not see, Azure leaves out of Resource Graph without a word: a role that reads some types and not others looks
// like an estate without the others. Reader suffices. A role of one's own must hold read of every type in this package, and
// Microsoft.Network/networkGroupMemberships/read, by which the networks under a network manager are found.
package collect

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// Client is what is asked of Azure; azure.Client is one.
type Client interface {
	Subscriptions(ctx context.Context) ([]azure.Subscription, error)
	ManagementGroupSubscriptions(ctx context.Context, group string) ([]string, error)
	GraphPage(ctx context.Context, q azure.GraphQuery, token string) (azure.GraphPage, error)
	ListBodies(ctx context.Context, subscription, fullType string, each func(body []byte) error) error
	ListRuleCollections(ctx context.Context, policy string, each func(body []byte) error) error
	ListInstances(ctx context.Context, scaleSet string, each func(body []byte) error) error
	AdminRuleBodies(ctx context.Context, vnetID string) ([]json.RawMessage, error)
}

var _ Client = (*azure.Client)(nil)

// Sink takes what was read. Its methods may be called concurrently; estate.Builder is one.
type Sink interface {
	// Add takes a resource as ARM returns it, and does not keep body. An error means that it is no resource that can be judged.
	Add(body []byte) error
	// Hide takes what could not be read.
	Hide(gap estate.Gap)
}

// Config says what to read and how. Client is needed.
type Config struct {
	Client           Client
	Cloud            string   // for the report
	Endpoint         string   // of Azure, so that a state is not taken for that of another one
	Subscriptions    []string // ids, or names that one subscription alone has
	ManagementGroups []string // names; with no subscription either, it is all that the identity sees
	ViaARM           bool     // lists of the resource providers alone: up to date, slower, many calls
	Clock            clock.Clock
	// Progress is called now and then, one call at a time.
	Progress func(Progress)
	// Note is called with a sentence for people about how it was read, one call at a time.
	Note func(string)
	// State keeps pages, so that a scan that was interrupted goes on; nil keeps none.
	State *State
	Log   *slog.Logger
	// Parallel bounds calls in flight; 0 is 16.
	Parallel int
}

// Progress says how far it is. Totals grow while it is found out what there is to read.
type Progress struct {
	Rows      int // resources read from Resource Graph or lists
	RowsTotal int // as far as it is known; 0: not
	Resumed   int // of Rows, taken from an interrupted scan
	Calls     int // further calls that are done
	CallsAll  int // further calls as far as they are known
	Elapsed   time.Duration
	Left      time.Duration // an estimate; 0: none yet
	Done      bool
}

// Full types in lower case, as a gap names them.
const (
	vmType       = "microsoft.compute/virtualmachines"
	setType      = "microsoft.compute/virtualmachinescalesets"
	instanceType = "microsoft.compute/virtualmachinescalesets/virtualmachines"
	nicType      = "microsoft.network/networkinterfaces"
	nsgType      = "microsoft.network/networksecuritygroups"
	vnetType     = "microsoft.network/virtualnetworks"
	policyType   = "microsoft.network/firewallpolicies"
	rulesType    = "microsoft.network/firewallpolicies/rulecollectiongroups"
	adminType    = "microsoft.network/virtualnetworks/networkmanagereffectivesecurityadminrules"
	managerType  = "microsoft.network/networkmanagers"
	jitListType  = "microsoft.security/jitnetworkaccesspolicies"
	jitType      = "microsoft.security/locations/jitnetworkaccesspolicies"
)

// types are read from Resource Graph, or listed in each subscription.
var types = []string{vmType, setType, nicType, nsgType, vnetType, "microsoft.network/publicipaddresses", "microsoft.network/loadbalancers",
	"microsoft.network/azurefirewalls", "microsoft.network/ipgroups", "microsoft.network/routetables", "microsoft.network/bastionhosts",
	policyType, "microsoft.network/virtualnetworkgateways", "microsoft.network/localnetworkgateways", "microsoft.network/connections"}

// run is one collection.
type run struct {
	Config
	sink    Sink
	names   map[string]string // of subscriptions, by id
	start   time.Time
	calls   chan struct{}
	kind    string
	visible []string

	mu       sync.Mutex
	progress Progress
	sets     []scaleSet
	vnets    []string // ids
	policed  []string // ids of firewall policies
	managers int
	told     time.Time
}

// Collect reads everything and joins it. Errors are those of Into; what could not be read is among the estate's gaps.
func Collect(ctx context.Context, c Config) (*estate.Estate, scan.Source, error) {
	b := estate.NewBuilder()
	source, err := Into(ctx, c, b)
	if err != nil {
		return nil, scan.Source{}, err
	}
	return b.Build(), source, nil
}

// Into reads everything and hands it to the sink. It fails when nothing can be read: no subscription is visible, or Azure does not
// answer; and when ctx ends. Everything else that fails is a gap.
func Into(ctx context.Context, c Config, sink Sink) (scan.Source, error) {
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.Log == nil {
		c.Log = slog.New(slog.DiscardHandler)
	}
	if c.Parallel <= 0 {
		c.Parallel = 16
	}
	r := &run{Config: c, sink: sink, start: c.Clock.Now(), calls: make(chan struct{}, c.Parallel), names: map[string]string{}, kind: "graph"}
	if c.ViaARM {
		r.kind = "arm"
	}
	if c.State != nil {
		defer c.State.close()
	}
	err := r.all(ctx)
	if err == nil {
		err = ctx.Err() // what ended with it became gaps
	}
	if err != nil {
		return scan.Source{}, err
	}
	if c.State != nil {
		c.State.remove()
	}
	r.mu.Lock()
	r.progress.Done = true
	r.tellLocked(true)
	r.mu.Unlock()
	return scan.Source{Kind: r.kind, Cloud: c.Cloud, Subscriptions: r.visible, ManagementGroups: c.ManagementGroups}, nil
}

func (r *run) all(ctx context.Context) error {
	ctx = azure.WithPriority(ctx, azure.Background)
	var err error
	if r.visible, err = r.scope(ctx); err != nil {
		return err
	}
	var g errgroup.Group
	g.Go(func() error { r.policies(ctx); return nil })
	g.Go(func() error { return r.resources(ctx) })
	if err := g.Wait(); err != nil {
		return err
	}
	return ctx.Err()
}

// resources reads all but the policies.
func (r *run) resources(ctx context.Context) error {
	members := map[string]bool(nil) // networks under a manager; nil: not known, so that each is asked
	if !r.ViaARM {
		var g errgroup.Group
		g.Go(func() error { return r.graph(ctx) })
		g.Go(func() error { members = r.memberships(ctx); return nil })
		err := g.Wait()
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, errGraph):
			r.kind, members = "arm", nil
			r.lists(ctx, r.visible, types, nil)
		case err != nil:
			return err
		}
	} else if err := r.everyList(ctx); err != nil {
		return err
	}
	r.further(ctx, members)
	return nil
}

// scope finds the subscriptions to read. Resource Graph says nothing about one that was named and is not visible, so that each is
// held against those that are.
func (r *run) scope(ctx context.Context) ([]string, error) {
	all, err := r.Client.Subscriptions(ctx)
	if err != nil {
		return nil, err
	}
	byID, byName := map[string]azure.Subscription{}, map[string][]azure.Subscription{}
	for _, s := range all {
		byID[strings.ToLower(s.SubscriptionID)] = s
		byName[strings.ToLower(s.DisplayName)] = append(byName[strings.ToLower(s.DisplayName)], s)
		r.names[strings.ToLower(s.SubscriptionID)] = s.DisplayName
	}
	var out []string
	seen := map[string]bool{}
	take := func(id string) {
		if k := strings.ToLower(id); !seen[k] {
			seen[k] = true
			out = append(out, id)
		}
	}
	invisible := func(id, why string) {
		r.sink.Hide(estate.Gap{Source: "subscription", Subscription: id, Reason: why, NotAuthorized: true})
	}
	missing, absent := []string{}, []string{} // subscriptions and management groups that were named
	for _, want := range r.Subscriptions {
		s, ok := byID[strings.ToLower(want)]
		if !ok {
			switch named := byName[strings.ToLower(want)]; len(named) {
			case 0:
				missing = append(missing, want)
				continue
			case 1:
				s = named[0]
			default:
				var ids []string
				for _, n := range named {
					ids = append(ids, n.SubscriptionID)
				}
				return nil, &access.Error{Code: access.CodeAmbiguous, Field: "subscription", Message: fmt.Sprintf("several subscriptions are called %q", want),
					Hint: "name one of: " + strings.Join(ids, ", ")}
			}
		}
		take(s.SubscriptionID)
	}
	for _, group := range r.ManagementGroups {
		ids, err := r.inGroup(ctx, group)
		switch {
		case ctx.Err() != nil:
			return nil, ctx.Err()
		case azure.Classify(err) == azure.NotFound:
			absent = append(absent, group)
			r.sink.Hide(estate.Gap{Source: "management group " + group, Reason: "there is none of that name, as far as this identity sees"})
		case err != nil && len(r.Subscriptions)+len(r.ManagementGroups) == 1:
			return nil, fmt.Errorf("reading management group %s: %w", group, err)
		case err != nil:
			r.sink.Hide(r.gap("management group "+group, "", "", "", err))
		case len(ids) == 0:
			r.note("no subscription is in management group %s, as far as this identity sees", group)
		}
		for _, id := range ids {
			s, ok := byID[strings.ToLower(id)]
			if !ok {
				invisible(id, "it is in management group "+group+", and this identity does not see it")
			} else if !readable(s) {
				r.note("subscription %s is %s and was left out", cmp.Or(s.DisplayName, id), strings.ToLower(s.State))
			} else {
				take(s.SubscriptionID)
			}
		}
	}
	if len(r.Subscriptions)+len(r.ManagementGroups) == 0 {
		for _, s := range all {
			if readable(s) {
				take(s.SubscriptionID)
			} else {
				r.note("subscription %s is %s and was left out: name it to scan it", cmp.Or(s.DisplayName, s.SubscriptionID), strings.ToLower(s.State))
			}
		}
	}
	if len(out) == 0 {
		e := &access.Error{Code: access.CodeNotFound, Field: "subscription", Message: "this identity sees no subscription that can be scanned",
			Hint: "check the tenant that you are signed in to, and that the identity has the Reader role: az account list"}
		switch {
		case len(missing) > 0:
			e.Message = "this identity does not see subscription " + strings.Join(missing, ", ")
		case len(absent) > 0:
			e.Field, e.Message = "management-group", "this identity sees no management group "+strings.Join(absent, ", ")
			e.Hint = "check the name (not the display name) and the tenant that you are signed in to: az account management-group list"
		}
		return nil, e
	}
	for _, id := range missing {
		invisible(id, "this identity does not see it")
	}
	slices.Sort(out)
	return out, nil
}

// readable tells whether a subscription has anything that runs: a disabled one is stopped as a whole.
func readable(s azure.Subscription) bool {
	switch strings.ToLower(s.State) {
	case "", "enabled", "warned", "pastdue":
		return true
	}
	return false
}

// inGroup returns the subscriptions of a management group and of the groups below it.
func (r *run) inGroup(ctx context.Context, group string) ([]string, error) {
	if r.ViaARM {
		return r.Client.ManagementGroupSubscriptions(ctx, group)
	}
	const query = "resourcecontainers | where type == 'microsoft.resources/subscriptions' | project id, subscriptionId | order by id asc"
	var out []string
	for token, more := "", true; more; more = token != "" {
		p, err := r.Client.GraphPage(ctx, azure.GraphQuery{Query: query, ManagementGroups: []string{group}}, token)
		if err != nil {
			if ctx.Err() != nil {
				return nil, err
			}
			if azure.Classify(err) == azure.Invalid { // how Resource Graph refuses a group that is not there is not documented; the provider tells
				if _, other := r.Client.ManagementGroupSubscriptions(ctx, group); azure.Classify(other) == azure.NotFound {
					return nil, other
				}
				return nil, err
			}
			r.note("Resource Graph does not answer for management group %s, so that the resource provider was asked", group)
			return r.Client.ManagementGroupSubscriptions(ctx, group)
		}
		if p.Limited {
			r.sink.Hide(estate.Gap{Source: "management group " + group,
				Reason: "it has more than 10,000 subscriptions, and Resource Graph looks into the first 10,000 alone: name smaller groups"})
		}
		for _, row := range p.Rows {
			id := azure.Peek(row, "subscriptionId")
			if id == "" {
				return nil, fmt.Errorf("a row of Resource Graph names no subscription")
			}
			out = append(out, id)
		}
		token = p.Next
	}
	return out, nil
}

// add hands a body of a type to the sink and keeps what further calls need to know. A body that the sink refuses is a gap.
func (r *run) add(body []byte, kind, subscription string) {
	switch kind {
	case setType:
		r.noteSet(body)
	case vnetType:
		r.mu.Lock()
		r.vnets = append(r.vnets, azure.Peek(body, "id"))
		r.mu.Unlock()
	case policyType:
		r.mu.Lock()
		r.policed = append(r.policed, azure.Peek(body, "id"))
		r.mu.Unlock()
	case managerType:
		r.mu.Lock()
		r.managers++
		r.mu.Unlock()
		return // no part of an estate: it only says that networks may be under it
	}
	r.hand(body, subscription)
}

func (r *run) hand(body []byte, subscription string) {
	if err := r.sink.Add(body); err != nil {
		id := azure.Peek(body, "id")
		if p, e := azure.ParseID(id); e == nil {
			subscription = p.Subscription
		}
		r.sink.Hide(estate.Gap{Source: "a resource that could not be read", Subscription: subscription, Resource: id,
			Type: strings.ToLower(azure.Peek(body, "type")), Reason: err.Error()})
	}
}

// gap says what an error hides.
func (r *run) gap(source, subscription, resource, fullType string, err error) estate.Gap {
	class := azure.Classify(err)
	reason := err.Error()
	if u := azure.UserError(err); u != nil && u.Code != access.CodeInternal {
		reason = u.Message
	}
	return estate.Gap{Source: source, Subscription: subscription, Resource: resource, Type: fullType, Reason: reason,
		NotAuthorized: class == azure.Forbidden || class == azure.Unauthenticated}
}

func (r *run) note(format string, args ...any) {
	text := fmt.Sprintf(format, args...)
	r.Log.Info("scan: " + text)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.Note != nil {
		r.Note(text)
	}
}

// count moves the progress on.
func (r *run) count(f func(p *Progress)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(&r.progress)
	r.tellLocked(false)
}

const tellEvery = 100 * time.Millisecond // as often as a person can see

func (r *run) tellLocked(now bool) {
	if r.Progress == nil {
		return
	}
	at := r.Clock.Now()
	if !now && at.Sub(r.told) < tellEvery {
		return
	}
	r.told = at
	p := r.progress
	p.Elapsed = at.Sub(r.start)
	if fresh := p.Rows - p.Resumed; fresh > 0 && p.RowsTotal > p.Rows && !p.Done {
		p.Left = time.Duration(float64(p.Elapsed) * float64(p.RowsTotal-p.Rows) / float64(fresh))
	}
	r.Config.Progress(p)
}

// slot waits for one of the calls in flight; each success must be followed by done.
func (r *run) slot(ctx context.Context) bool {
	select {
	case r.calls <- struct{}{}:
		return true
	case <-ctx.Done():
		return false
	}
}

func (r *run) done() { <-r.calls }

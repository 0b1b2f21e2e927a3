// Package nsg is the back end that holds access in the rules of network security groups. It needs no Defender plan.
//
// A pure planner (NewPlan) decides what a group should hold; the back end reads, asks what is wanted, plans, writes the whole
// group on the condition that nobody wrote it meanwhile, and reads again. What Azure holds is the truth: nothing is remembered
// between two calls, and what is ours is known by its name alone. Rules of others are trusted to be somebody's will, and go back
// byte for byte (P3); their content is not trusted to be understood: what cannot be read may match anything.
package nsg

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/inventory"
)

// Client is what the back end asks of Azure: *azure.Client.
type Client interface {
	NSG(ctx context.Context, id string) (azure.NSG, error)
	ListNSGs(ctx context.Context, subscription string) ([]azure.NSG, error)
	PutNSG(ctx context.Context, n azure.NSG, guard func() error) (azure.NSG, error)
	DeleteRule(ctx context.Context, nsgID, ruleName string) error
}

// Config of the back end. Client and Installation are needed.
type Config struct {
	Client       Client
	Installation string
	Band         Band        // zero: DefaultBand
	Clock        clock.Clock // nil: the system's
	Log          *slog.Logger

	// OnWrite runs after each whole-group write, for metrics; class is "" when it succeeded.
	OnWrite func(place string, opening bool, took time.Duration, class azure.Class)
	// OnShut runs after each rule that was removed by itself because the group could not be written.
	OnShut func(place, rule string, err error)
}

// Backend implements enforce.Backend. It holds no state, and all its methods may be called concurrently.
type Backend struct {
	c     Config
	clock clock.Clock
	log   *slog.Logger
}

var _ enforce.Backend = (*Backend)(nil)

// New checks the configuration and returns the back end. It sends nothing.
func New(c Config) (*Backend, error) {
	if c.Client == nil {
		return nil, errors.New("nsg: no client was given")
	}
	if err := CheckInstallation(c.Installation); err != nil {
		return nil, err
	}
	if c.Band == (Band{}) {
		c.Band = DefaultBand
	}
	if err := c.Band.Check(); err != nil {
		return nil, err
	}
	b := &Backend{c: c, clock: c.Clock, log: c.Log}
	if b.clock == nil {
		b.clock = clock.System{}
	}
	if b.log == nil {
		b.log = slog.New(slog.DiscardHandler)
	}
	return b, nil
}

// Properties implements enforce.Backend.
func (b *Backend) Properties() enforce.Properties {
	return enforce.Properties{Name: "nsg", EarlyClose: true, Extend: true}
}

// Locate implements enforce.Backend: every group in the path of the machine, of subnets and of interfaces, because both must let
// a packet in (FACTS 2.3).
func (b *Backend) Locate(m inventory.Machine, ports access.Ports, proto access.Protocol) ([]access.Place, error) {
	var out []access.Place
	for _, id := range m.NSGs() {
		if dsts := m.Destinations(id, ports, proto); len(dsts) > 0 {
			out = append(out, access.Place{ID: id, Addresses: dsts})
		}
	}
	if len(out) == 0 {
		return nil, access.Errorf(access.CodeUnprotectable, "%s has no network security group, on its interfaces or its subnets", m.Name).
			WithHint("create one for it: curfew protect %s --create-nsg", m.Name)
	}
	return out, nil
}

const (
	refusals = 3  // of a write, before closings go by themselves
	replans  = 20 // of one Sync in all: windows may end one after another while a write waits
)

// errOver is a window that ended before its write could leave. P1.
var errOver = errors.New("a window is over before its rule could be sent")

// sendError is a refusal by Sync.Sending.
type sendError struct{ error }

func (e sendError) Unwrap() error { return e.error }

// Sync implements enforce.Backend.
func (b *Backend) Sync(ctx context.Context, place string, s enforce.Sync) (enforce.Result, error) {
	r := &run{b: b, s: s, place: place, res: enforce.Result{Place: place, Before: map[access.GrantID]bool{},
		After: map[access.GrantID]bool{}, Leftover: map[access.GrantID]error{}, Held: enforce.Held{Place: place},
		Snapshot: func(s *inventory.Snapshot) *inventory.Snapshot { return s }}}
	err := r.sync(ctx)
	return r.res, err
}

// run is one Sync.
type run struct {
	b        *Backend
	s        enforce.Sync
	place    string
	res      enforce.Result
	attempts int // writes that were tried
	read     bool
	kept     []access.Replacement // by this run; the store may answer Decide from before it
}

func (r *run) sync(ctx context.Context) error {
	refused, reading := 0, ctx
	if r.s.Urgent {
		reading = azure.WithPriority(ctx, azure.Closing)
	}
	for try := 0; ; try++ {
		n, err := r.b.c.Client.NSG(reading, r.place)
		if azure.Classify(err) == azure.NotFound {
			return r.gone(ctx)
		}
		if err != nil {
			return fmt.Errorf("reading %s: %w", azure.IDName(r.place), err)
		}
		in, err := r.decide(ctx, n)
		if err != nil {
			return err
		}
		p := NewPlan(in)
		flush := flushOf(n, in.Wanted.Flush)
		p.Changes = append(p.Changes, flushChange(r.place, n, flush)...)
		r.took(n, in, p)
		if len(p.Changes) == 0 {
			// What an earlier attempt sent without an answer stands after all.
			r.res.Wrote = r.res.Wrote || r.attempts > 0
			return nil
		}
		r.res.Changes = p.Changes
		if r.s.DryRun {
			r.observe(n.WithRules(p.Rules), in)
			return nil
		}
		if flush && !n.FlushConnection {
			if r.s.KeepFlush == nil {
				return sendError{errors.New("flushConnection is to be switched on, and nobody keeps that it was off")}
			}
			if err := r.s.KeepFlush(ctx); err != nil {
				return sendError{fmt.Errorf("keeping that flushConnection was off: %w", err)}
			}
		}
		n.FlushConnection = flush
		after, err := r.write(ctx, n, in, p)
		if err == nil {
			r.res.Wrote = true
			in.Now = r.b.clock.Now()
			in.Rules = after.Rules
			r.observe(after, in)
			if refused++; r.res.Clean && maps.Equal(r.res.After, standing(in, p.Rules).Windows) || refused >= refusals {
				return nil
			}
			continue // somebody else wrote between our write and the look at it
		}
		class := azure.Classify(err)
		r.b.log.InfoContext(ctx, "nsg: write did not go through", "place", r.place, "class", class, "error", err)
		switch {
		case errors.Is(err, errOver) && try < replans:
			continue
		case class == azure.NotFound:
			return r.gone(ctx)
		case class == azure.Precondition, class == azure.Superseded, class == azure.Busy, class == azure.UnknownOutcome, class == azure.Conflict:
			if refused++; refused < refusals {
				continue
			}
		}
		return r.closeSingly(ctx, err)
	}
}

// flushOf returns what flushConnection should be.
func flushOf(n azure.NSG, f enforce.Flush) bool {
	switch f {
	case enforce.FlushOn:
		return true
	case enforce.FlushBack:
		return false
	}
	return n.FlushConnection
}

// flushChange says what changes with flushConnection, and whom it concerns.
func flushChange(place string, n azure.NSG, flush bool) []enforce.Change {
	if flush == n.FlushConnection {
		return nil
	}
	c := enforce.Change{Place: place, Kind: enforce.Connect, Rule: "flushConnection", Access: "off",
		Summary: "changes of rules leave open connections alone again", Why: "no access there ends its connections any more"}
	if flush {
		c.Access, c.Why = "on", "an access there ends its connections when it is over"
		c.Summary = fmt.Sprintf("changes of rules end open connections that they no longer allow, on all %d interfaces and %d subnets of the group", len(n.NICs), len(n.Subnets))
	}
	return []enforce.Change{c}
}

// decide asks what is wanted, after the place was read.
func (r *run) decide(ctx context.Context, n azure.NSG) (Input, error) {
	w, err := r.s.Decide(ctx, heldOf(r.place, n.Rules))
	if err != nil {
		return Input{}, err
	}
	for _, k := range r.kept {
		same := func(x access.Replacement) bool { return strings.EqualFold(x.Rule, k.Rule) }
		if !slices.ContainsFunc(w.Replaced, same) && !slices.ContainsFunc(w.Restore, same) {
			w.Replaced = append(slices.Clone(w.Replaced), k)
		}
	}
	return Input{Place: r.place, Rules: n.Rules, Wanted: w, Installation: r.b.c.Installation, Band: r.b.c.Band, Now: r.b.clock.Now()}, nil
}

// took notes what was read and planned. What stood before is what the first read saw.
func (r *run) took(n azure.NSG, in Input, p Plan) {
	if !r.read {
		r.read = true
		r.res.Before, r.res.Until = p.Before.Windows, p.Before.Until
	}
	r.res.Problems = p.Problems
	for _, name := range p.Altered {
		if !slices.Contains(r.res.Altered, name) {
			r.res.Altered = append(r.res.Altered, name)
		}
	}
	if r.s.Expected != nil {
		for _, name := range p.Absent {
			if r.s.Expected(name) && !slices.Contains(r.res.Missing, name) {
				r.res.Missing = append(r.res.Missing, name)
			}
		}
	}
	r.observe(n, in)
}

// observe reports from what was read, or would be.
func (r *run) observe(n azure.NSG, in Input) {
	s := standing(in, n.Rules)
	r.res.After, r.res.Shields, r.res.Clean = s.Windows, s.Shields, len(s.Stray) == 0
	r.res.Held = heldOf(r.place, n.Rules)
	r.res.Flushes = n.FlushConnection
	r.res.Snapshot = func(s *inventory.Snapshot) *inventory.Snapshot { return s.With(n) }
}

// gone is a group that does not exist: it holds nothing of ours, and cannot.
func (r *run) gone(ctx context.Context) error {
	in, err := r.decide(ctx, azure.NSG{})
	if err != nil {
		return err
	}
	r.res.Held, r.res.Changes = enforce.Held{Place: r.place}, nil
	r.res.After = map[access.GrantID]bool{}
	var grants []access.GrantID
	for _, w := range in.Wanted.Windows {
		grants = append(grants, w.Grant)
		r.res.After[w.Grant] = false
		if !r.read {
			r.res.Before[w.Grant] = false
		}
	}
	r.res.Shields = len(in.Wanted.Shields) == 0
	r.res.Clean = true
	r.res.Problems = nil
	if len(in.Wanted.Shields)+len(in.Wanted.Windows) > 0 {
		r.res.Problems = []enforce.Problem{{Place: r.place, Grants: grants, Message: fmt.Sprintf("network security group %s does not exist any more", azure.IDName(r.place)),
			Hint: "look which group the machine has now, and protect it again"}}
	}
	return nil
}

// write sends a plan. The guard is asked before every attempt, because one may wait long for its turn: a writer that was paused
// and wakes after a window's end must not open it again (P1).
func (r *run) write(ctx context.Context, n azure.NSG, in Input, p Plan) (azure.NSG, error) {
	if len(p.Keep) > 0 {
		if r.s.Keep == nil {
			return azure.NSG{}, sendError{errors.New("rules are to be set aside, and nobody keeps their originals")}
		}
		if err := r.s.Keep(ctx, p.Keep); err != nil {
			return azure.NSG{}, sendError{fmt.Errorf("keeping the originals of rules that are to be set aside: %w", err)}
		}
		r.kept = append(r.kept, p.Keep...)
	}
	opening := p.Opening(in.Installation)
	guard := func() error {
		if r.s.Sending != nil {
			if err := r.s.Sending(opening); err != nil {
				return sendError{err}
			}
		}
		if name, over := p.Over(in.Installation, r.b.clock.Now()); over {
			return fmt.Errorf("%w: %s", errOver, name)
		}
		r.attempts++
		return nil
	}
	if len(standing(in, n.Rules).Stray) > 0 { // P9
		ctx = azure.WithPriority(ctx, azure.Closing)
	}
	r.res.Clean = false // not known until it is read again
	start := r.b.clock.Now()
	after, err := r.b.c.Client.PutNSG(ctx, n.WithRules(p.Rules), guard)
	if r.b.c.OnWrite != nil {
		r.b.c.OnWrite(r.place, opening, r.b.clock.Now().Sub(start), azure.Classify(err))
	}
	return after, err
}

// closeSingly removes, rule by rule, what lets in anybody who is not wanted, when the group as a whole could not be written.
func (r *run) closeSingly(ctx context.Context, cause error) error {
	cause = fmt.Errorf("writing %s: %w", azure.IDName(r.place), cause)
	ctx = azure.WithPriority(ctx, azure.Closing)
	n, err := r.b.c.Client.NSG(ctx, r.place)
	if azure.Classify(err) == azure.NotFound {
		return r.gone(ctx)
	}
	if err != nil {
		return errors.Join(cause, err)
	}
	in, err := r.decide(ctx, n)
	if err != nil {
		return errors.Join(cause, err)
	}
	r.observe(n, in)
	stray := standing(in, n.Rules).Stray
	if len(stray) == 0 {
		return cause
	}
	failed := r.b.shut(ctx, r.place, stray)
	for name, err := range failed {
		if h, ok := Parse(name); ok {
			r.res.Leftover[h.Grant] = err
		}
	}
	if len(failed) < len(stray) {
		r.res.Wrote = true
	}
	if n, err = r.b.c.Client.NSG(ctx, r.place); err == nil {
		in.Now, in.Rules = r.b.clock.Now(), n.Rules
		r.observe(n, in)
	}
	return cause
}

// Shut implements enforce.Backend. It refuses names that are not this installation's.
func (b *Backend) Shut(ctx context.Context, place string, rules []string) error {
	for _, name := range rules {
		if h, ok := Parse(name); !ok || h.Installation != b.c.Installation {
			return access.Errorf(access.CodeInvalid, "rule %s is not one of installation %s, and is not removed", name, b.c.Installation)
		}
	}
	failed := b.shut(azure.WithPriority(ctx, azure.Closing), place, rules)
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(failed)) {
		errs = append(errs, failed[name])
	}
	return errors.Join(errs...)
}

func (b *Backend) shut(ctx context.Context, place string, rules []string) map[string]error {
	failed := map[string]error{}
	for _, name := range rules {
		err := b.c.Client.DeleteRule(ctx, place, name)
		if b.c.OnShut != nil {
			b.c.OnShut(place, name, err)
		}
		if err != nil && azure.Classify(err) != azure.NotFound {
			failed[name] = fmt.Errorf("removing rule %s: %w", name, err)
		}
	}
	return failed
}

// Survey implements enforce.Backend.
func (b *Backend) Survey(ctx context.Context, subscription string) ([]enforce.Held, error) {
	groups, err := b.c.Client.ListNSGs(ctx, subscription)
	if err != nil {
		return nil, fmt.Errorf("reading the network security groups of subscription %s: %w", subscription, err)
	}
	var out []enforce.Held
	for _, n := range groups {
		if h := heldOf(n.ID, n.Rules); len(h.Rules) > 0 {
			out = append(out, h)
		}
	}
	return out, nil
}

func heldOf(place string, rules []azure.SecurityRule) enforce.Held {
	h := enforce.Held{Place: place}
	for _, r := range rules {
		if x, ok := parseRule(r); ok {
			h.Rules = append(h.Rules, x)
		}
	}
	slices.SortFunc(h.Rules, func(a, b enforce.HeldRule) int { return strings.Compare(a.Name, b.Name) })
	return h
}

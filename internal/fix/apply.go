package fix

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// StepState is how a step ended.
type StepState string

// The states of steps.
const (
	StepDone    StepState = "done"    // it was written, and Azure took it
	StepNothing StepState = "nothing" // it stood already
	StepPartly  StepState = "partly"  // something of it was written, and something was not
	StepFailed  StepState = "failed"  // nothing of it was written
	StepUnknown StepState = "unknown" // it was sent, and it is not known whether it was written
	StepSkipped StepState = "skipped" // it was interrupted before anything of it was written
)

// StepOutcome is how one step ended.
type StepOutcome struct {
	Step    string    `json:"step"` // its id in the plan
	Title   string    `json:"title"`
	State   StepState `json:"state"`
	Writes  int       `json:"writes"`           // that Azure took
	Unsure  bool      `json:"unsure,omitempty"` // one more was sent, and it is not known whether Azure took it
	Changes []Change  `json:"changes,omitempty"`
	Notes   []string  `json:"notes,omitempty"`
	Error   string    `json:"error,omitempty"`
	Hint    string    `json:"hint,omitempty"`

	unmet []Left
}

// Outcome is what became of a plan, as it was read again afterwards.
type Outcome struct {
	Steps       []StepOutcome `json:"steps"`
	Fixed       []string      `json:"fixed"`                 // ids of findings that hold no more
	Open        []Left        `json:"open,omitempty"`        // findings that still fail, or cannot be decided, and why
	Judged      bool          `json:"judged"`                // it was read and judged again; where not, Unread says why
	Unread      string        `json:"unread,omitempty"`      // why it was not
	Interrupted bool          `json:"interrupted,omitempty"` // it was, and what was not begun by then was not done
	Writes      int           `json:"writes"`                // that Azure took
	Undo        string        `json:"undo,omitempty"`        // the undo file, where something was written or may have been
}

// Complete tells whether everything that the plan was asked for holds no more.
func (o Outcome) Complete() bool {
	return o.Judged && len(o.Open) == 0 && !slices.ContainsFunc(o.Steps, func(s StepOutcome) bool {
		return s.State != StepDone && s.State != StepNothing
	})
}

// refusals is how often a place that somebody else writes at the same time is read and decided again, before single rules are deleted
// (DESIGN 5) and the rest is given up.
const refusals = 6

// tally counts writes that Azure took. What it refused is none.
type tally struct {
	writes int
	unsure bool // one more was sent, and its outcome is not known
}

// sent counts a write by how it ended.
func (t *tally) sent(err error) {
	t.unsure = azure.Classify(err) == azure.UnknownOutcome
	if err == nil {
		t.writes++
	}
}

// stands counts the write whose outcome was not known, because it was read that it stands.
func (t *tally) stands() {
	if t.unsure {
		t.writes, t.unsure = t.writes+1, false
	}
}

// again does one until it has nothing more to write or fails for good. one reads, decides and writes; it tells whether it sent
// something. After a write it is asked once more, because only reading shows what stands.
func (f *Fixer) again(ctx context.Context, t *tally, one func() (sent bool, err error)) error {
	for try := 1; ; try++ {
		sent, err := one()
		if sent {
			t.sent(err) // one before it whose outcome was not known did not stand
		}
		if err == nil && !sent {
			t.stands()
			return nil
		}
		if err == nil {
			if try >= refusals {
				return access.Errorf(access.CodeConflict, "it was written %d times, and does not stay as it was written", try).
					WithHint("somebody else writes it too: look at its activity log, then run fix again")
			}
			continue
		}
		var refused *access.Error
		if errors.As(err, &refused) || ctx.Err() != nil || try >= refusals {
			return err
		}
		switch azure.Classify(err) {
		case azure.Precondition, azure.Superseded, azure.UnknownOutcome, azure.Busy, azure.Conflict, azure.Aborted:
		default:
			return err
		}
		wait := max(azure.RetryAfter(err), time.Duration(try)*retryStep)
		if azure.Classify(err) == azure.Precondition || azure.Classify(err) == azure.Aborted {
			wait = 0
		}
		if wait > 0 {
			select {
			case <-f.c.Clock.After(wait):
			case <-ctx.Done():
				return err
			}
		}
	}
}

const retryStep = 200 * time.Millisecond

// Apply carries a plan out: what was confirmed, and nothing else. Places are written at the same time, within Options.Parallel, each
// with as few writes as it can hold; progress, which may be nil, is told of each step that ends. Then everything is read again and
// judged again.
//
// When ctx ends, what has begun is finished or left whole, what has not begun is skipped, nothing is read again, and the outcome says what
// was written and of what that is not known. It returns an error only where nothing was done.
func (f *Fixer) Apply(ctx context.Context, p Plan, progress func(StepOutcome)) (Outcome, error) {
	out := Outcome{Steps: make([]StepOutcome, len(p.Steps)), Fixed: []string{}}
	for _, s := range p.Steps {
		for _, c := range s.Changes {
			if (c.Kind == "narrow" || c.Kind == "move") && f.c.Undo == "" {
				return out, invalid("undo", "rule %s of somebody else's is narrowed only where its original is kept, and no undo file was named", "name one with --undo FILE", c.Rule)
			}
		}
	}
	defer f.rec.release()
	var mu sync.Mutex
	run := func(i int) {
		s := &p.Steps[i]
		so := StepOutcome{Step: s.ID, Title: s.Title}
		if ctx.Err() != nil {
			so.State, so.Error, so.Hint = StepSkipped, "it was interrupted before this step", goesOn
		} else {
			f.step(ctx, p, s, &so)
		}
		mu.Lock()
		defer mu.Unlock()
		out.Steps[i] = so
		if progress != nil {
			progress(so)
		}
	}
	// Protections write to groups themselves: one after another, before the groups, and behind those that make room for them.
	rest := 0
	for rest < len(p.Steps) && (p.Steps[rest].Kind == Protection || p.Steps[rest].first) {
		run(rest)
		rest++
	}
	slots := make(chan struct{}, p.options.Parallel)
	var wg sync.WaitGroup
	for i := rest; i < len(p.Steps); i++ {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			run(i)
		})
	}
	wg.Wait()
	for _, s := range out.Steps {
		out.Writes += s.Writes
		if s.Writes > 0 || s.Unsure {
			out.Undo = f.c.Undo
		}
	}
	f.judge(ctx, p, &out)
	return out, nil
}

// goesOn is the next step after an interruption.
const goesOn = "run fix again: it goes on from what stands"

// places are the groups that a step writes to.
func (s *Step) places() []string {
	out := []string{s.Resource}
	for _, c := range s.planned {
		out = appendNew(out, c.Place)
	}
	return out
}

func (f *Fixer) step(ctx context.Context, p Plan, s *Step, so *StepOutcome) {
	var err error
	var t tally
	switch s.Kind {
	case Protection:
		err = f.applyProtection(ctx, s, &t)
	case JITPolicyStep:
		err = f.applyPolicy(ctx, s, &t)
	case GroupStep:
		err = f.applyGroup(ctx, s, so, &t)
	default:
		err = f.applyEvents(ctx, s, so, &t)
	}
	so.Writes, so.Unsure = t.writes, t.unsure
	switch {
	case err != nil:
		e := azure.UserError(err)
		so.Error, so.Hint = p.names.in(e.Message, s.places(), func(string, string) bool { return true }), strings.ReplaceAll(e.Hint, "\n", "; ")
		switch {
		case so.Unsure:
			so.State = StepUnknown
		case so.Writes > 0:
			so.State = StepPartly
		default:
			so.State = StepFailed
		}
		if ctx.Err() != nil {
			so.Hint = goesOn
			switch so.State {
			case StepUnknown:
				so.Error = "it was interrupted before Azure said that it is done: it is not known whether it was written"
			case StepPartly:
				so.Error = fmt.Sprintf("it was interrupted after %s", several(so.Writes, "write"))
			default:
				so.State, so.Error = StepSkipped, "it was interrupted before anything of it was written"
			}
		}
	case len(so.unmet) > 0:
		so.State = StepPartly
		if so.Writes == 0 {
			so.State = StepFailed
		}
		so.Error, so.Hint = so.unmet[0].Why, so.unmet[0].Next
	case so.Writes > 0:
		so.State = StepDone
	default:
		so.State = StepNothing
	}
}

// applyGroup makes one group what the step says: everything in one conditional write, decided on what it holds at that moment.
func (f *Fixer) applyGroup(ctx context.Context, s *Step, so *StepOutcome, t *tally) error {
	key := azure.Key(s.Resource)
	var last *group
	refused := 0
	err := f.again(ctx, t, func() (bool, error) {
		n, err := f.c.Azure.NSG(ctx, s.Resource)
		if err != nil {
			return false, err
		}
		now := f.c.Clock.Now()
		removing := map[string]bool{}
		for name := range s.removing {
			h, ours := enforce.ParseName(name)
			if !ours || h.Kind != enforce.KindAllow || !now.Before(h.End) {
				removing[name] = true
			}
		}
		g := newGroup(n, s.name, removing, s.consents, now)
		g.spare, g.taken = s.spare, s.taken
		last = g
		gs := groups{key: g}
		so.unmet = nil
		for _, nd := range s.needs {
			if !nd.dest.IsValid() {
				nd.checks = g.whole() // what its rules tell apart may be something else by now
			}
			if why := gs.place(key, nd); why != nil {
				for _, id := range nd.findings {
					so.unmet = append(so.unmet, Left{Finding: id, Resource: s.Resource, Why: why.why, Next: why.next})
				}
			}
		}
		changes := g.changes()
		if len(changes) == 0 {
			return false, nil
		}
		var es []entry
		for _, c := range changes {
			es = append(es, entry{Kind: kindRule, Resource: s.Resource, Name: c.Rule, Before: string(c.before), After: string(c.after)})
			if f.c.Undo == "" && (c.Kind == "narrow" || c.Kind == "move") {
				return false, invalid("undo", "rule %s of somebody else's is narrowed only where its original is kept, and no undo file was named", "name one with --undo FILE", c.Rule)
			}
		}
		if err := f.rec.keep(es...); err != nil {
			return false, err
		}
		body := n.WithRules(g.rules)
		live := liveUntil(g)
		_, err = f.c.Azure.PutNSG(ctx, body, func() error {
			// A grant that ended while this waited: what is about to be sent would bring its rule back, if the write were late enough.
			if !live.IsZero() && !f.c.Clock.Now().Before(live) {
				return errEnded
			}
			return ctx.Err()
		})
		if err == nil || azure.Classify(err) == azure.UnknownOutcome {
			so.Changes = changes
		}
		switch azure.Classify(err) {
		case azure.Precondition, azure.Superseded, azure.Busy, azure.Conflict:
			refused++
		}
		return true, err
	})
	if err == nil || last == nil || len(s.removing) == 0 || ctx.Err() != nil {
		return err
	}
	if c := azure.Classify(err); c != azure.Locked && refused < 3 {
		return err
	}
	// What is past its end goes, even where the whole group cannot be written (P2).
	for _, name := range slices.Sorted(maps.Keys(s.removing)) {
		r, ok := last.read.Rule(name)
		if !ok {
			continue
		}
		if kerr := f.rec.keep(entry{Kind: kindRule, Resource: s.Resource, Name: r.Name, Before: string(r.Raw)}); kerr != nil {
			return kerr
		}
		derr := f.c.Azure.DeleteRule(ctx, s.Resource, r.Name)
		if t.sent(derr); derr != nil {
			return derr
		}
		so.Changes = append(so.Changes, Change{Kind: "remove", Rule: r.Name, Priority: r.Priority, Access: r.Access, Summary: words(r)})
	}
	if len(s.needs) > 0 {
		return err
	}
	return nil
}

var errEnded = errors.New("a grant ended meanwhile")

// liveUntil is the earliest end of the grants whose rules are in the group, zero when there is none.
func liveUntil(g *group) time.Time {
	var out time.Time
	for _, r := range g.rules {
		if h, ok := enforce.ParseName(r.Name); ok && h.Kind == enforce.KindAllow && g.now.Before(h.End) && (out.IsZero() || h.End.Before(out)) {
			out = h.End
		}
	}
	return out
}

// judge reads everything again and says what holds no more.
func (f *Fixer) judge(ctx context.Context, p Plan, out *Outcome) {
	why := map[string]Left{}
	for _, l := range p.Left {
		if _, ok := why[l.Finding]; !ok {
			why[l.Finding] = l
		}
	}
	for i, s := range out.Steps {
		for _, l := range s.unmet {
			why[l.Finding] = l
		}
		for _, id := range p.Steps[i].Findings {
			if s.Error != "" {
				why[id] = Left{Why: s.Error, Next: s.Hint}
			} else if _, ok := why[id]; !ok && len(s.Notes) > 0 {
				why[id] = Left{Why: strings.Join(s.Notes, "; ")}
			}
		}
	}
	ids := slices.SortedFunc(maps.Keys(p.asked), func(a, b string) int { // as they are left in a plan
		x, y := p.asked[a], p.asked[b]
		return cmp.Or(cmp.Compare(azure.Key(x.Resource), azure.Key(y.Resource)), cmp.Compare(x.Rule, y.Rule), cmp.Compare(a, b))
	})
	stay := func(x scan.Finding, l Left) {
		l.Finding, l.Rule, l.Resource, l.Name = x.ID, x.Rule, x.Resource, p.names.of(x.Resource)
		out.Open = append(out.Open, l)
	}
	unread := func(reason string) {
		out.Unread = reason
		for _, id := range ids {
			if slices.Contains(p.Passes, id) {
				out.Fixed = append(out.Fixed, id)
				continue
			}
			l := why[id]
			if l.Why == "" {
				l = Left{Why: "it was written, and not read again", Next: "see what is open now with: curfew scan"}
			}
			stay(p.asked[id], l)
		}
	}
	if len(ids) == 0 {
		out.Judged = true
		return
	}
	var e *estate.Estate
	err := ctx.Err()
	if err == nil {
		e, err = f.c.Read(ctx, p.subscriptions)
	}
	switch {
	case ctx.Err() != nil:
		out.Interrupted = true
		unread("it was interrupted")
		return
	case err != nil:
		unread(azure.UserError(err).Message)
		return
	}
	out.Judged = true
	now := map[string]scan.Finding{}
	for _, x := range f.c.Judge(e) {
		now[x.ID] = x
	}
	for _, id := range ids {
		x, ok := now[id]
		if !ok || x.Status == scan.Pass || x.Status == scan.NotApplicable {
			out.Fixed = append(out.Fixed, id)
			continue
		}
		l := why[id]
		if l.Why == "" {
			l = Left{Why: "after the write: " + x.Reason, Next: "run curfew scan explain, and fix again"}
		}
		stay(x, l)
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

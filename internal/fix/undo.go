package fix

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
)

// Undone is one change that was given back, or would be.
type Undone struct {
	Resource string `json:"resource"`
	Name     string `json:"name,omitempty"`
	Title    string `json:"title"` // what both are called, told apart from others in the file
	What     string `json:"what"`  // in words
}

// Kept is one change that is left as it is, and why.
type Kept struct {
	Resource string `json:"resource"`
	Name     string `json:"name,omitempty"`
	Title    string `json:"title"`
	Why      string `json:"why"`
	Next     string `json:"next,omitempty"`
}

// UndoOutcome is what an undo file gave back.
type UndoOutcome struct {
	Done   []Undone `json:"done"`
	Kept   []Kept   `json:"kept,omitempty"`
	Failed []Kept   `json:"failed,omitempty"`
	Writes int      `json:"writes"` // that Azure took
	DryRun bool     `json:"dry_run"`

	Interrupted bool `json:"interrupted,omitempty"` // it was, and the rest was not given back
}

// Undo gives back what the undo file of the configuration tells of, latest first, wherever it still stands as it was written: what
// somebody has changed since stays, and is told (P3). A rule that let somebody in for a time that is over is not put back (P1). With
// dryRun it says what it would do. It may be repeated: what was given back is noted in the file.
func (f *Fixer) Undo(ctx context.Context, dryRun bool) (UndoOutcome, error) {
	out := UndoOutcome{Done: []Undone{}, DryRun: dryRun}
	if f.c.Undo == "" {
		return out, invalid("undo-from", "no undo file was named", "name it with --undo-from FILE")
	}
	all, _, err := readRecord(f.c.Undo)
	if err != nil {
		return out, invalid("undo-from", "%s cannot be used as an undo file: %v", "name the file that curfew fix wrote", f.c.Undo, err)
	}
	if !dryRun { // what another run is writing, or giving back, at this moment is not given back
		if err := f.rec.hold(0); err != nil {
			var busy *access.Error
			if errors.As(err, &busy) {
				return out, busy
			}
			return out, recordError(f.c.Undo, err)
		}
		defer f.rec.release()
		if all, _, err = readRecord(f.c.Undo); err != nil {
			return out, recordError(f.c.Undo, err)
		}
	}
	over := map[int]bool{}
	for _, e := range all {
		over[e.Undone] = e.Undone > 0
	}
	u := &undoing{f: f, out: &out, dry: dryRun}
	by := map[string][]entry{}
	var order []string
	for _, e := range slices.Backward(all) {
		if e.Undone > 0 || over[e.N] {
			continue
		}
		key := string(e.Kind) + " " + azure.Key(e.Resource)
		if e.Kind == kindProtect {
			key = e.Kind // all at once: one write for each group
		}
		if by[key] == nil {
			order = append(order, key)
		}
		by[key] = append(by[key], e)
	}
	for _, key := range order {
		es := by[key]
		if ctx.Err() != nil {
			u.fail(ctx, es[0], ctx.Err())
			continue
		}
		switch es[0].Kind {
		case kindRule:
			err = u.rules(ctx, es)
		case kindEvents:
			err = u.events(ctx, es)
		case kindPolicy:
			err = u.policy(ctx, es)
		case kindProtect:
			err = u.protect(ctx, es)
		case kindMade:
			err = u.made(ctx, es)
		default:
			err = invalid("undo-from", "the undo file tells of a change of kind %q, which this program does not know", "use the program that wrote it", es[0].Kind)
		}
		if err != nil {
			u.fail(ctx, es[0], err)
		}
		u.unsure = false // said of what it is about
	}
	out.Writes, out.Interrupted = u.writes, ctx.Err() != nil
	var ids []string
	for _, e := range all {
		ids = appendNew(ids, e.Resource)
		if strings.HasPrefix(e.Name, "/") {
			ids = appendNew(ids, e.Name)
		}
	}
	out.entitle(namesOf(ids))
	return out, nil
}

// entitle says what everything is called.
func (o *UndoOutcome) entitle(n names) {
	title := func(resource, name string) string {
		switch {
		case name == "":
			return n.of(resource)
		case strings.HasPrefix(name, "/"): // a machine in a policy
			return n.of(name) + " in policy " + n.of(resource)
		}
		return n.of(resource) + "/" + name
	}
	for i := range o.Done {
		o.Done[i].Title = title(o.Done[i].Resource, o.Done[i].Name)
	}
	for _, l := range [][]Kept{o.Kept, o.Failed} {
		for i := range l {
			l[i].Title = title(l[i].Resource, l[i].Name)
		}
	}
}

type undoing struct {
	f   *Fixer
	out *UndoOutcome
	dry bool
	tally
}

func (u *undoing) fail(ctx context.Context, e entry, err error) {
	x := *azure.UserError(err)
	if ctx.Err() != nil {
		x.Message, x.Hint = "it was interrupted before this was given back", "undo again: what was given back is noted in the file"
		if u.unsure {
			x.Message = "it was interrupted before Azure said that it is done: it is not known whether it was given back"
		}
	}
	u.out.Failed = append(u.out.Failed, Kept{Resource: e.Resource, Name: e.Name, Why: x.Message, Next: x.Hint})
}

// note writes down that entries are done with.
func (u *undoing) note(es []entry) error {
	if u.dry {
		return nil
	}
	var lines []entry
	for _, e := range es {
		lines = append(lines, entry{Undone: e.N, Kind: e.Kind, Resource: e.Resource, Name: e.Name})
	}
	return u.f.rec.keep(lines...)
}

// sameRule compares two rules in all that Azure lets one set.
func sameRule(a, b azure.SecurityRule) bool {
	norm := func(r azure.SecurityRule) azure.SecurityRule {
		r.Raw = nil
		r.Name, r.Access, r.Protocol, r.Direction = strings.ToLower(r.Name), strings.ToLower(r.Access), strings.ToLower(r.Protocol), strings.ToLower(r.Direction)
		for _, l := range []*[]string{&r.SourcePrefixes, &r.DestinationPrefixes, &r.SourcePorts, &r.DestinationPorts, &r.SourceASGs, &r.DestinationASGs} {
			c := slices.Clone(*l)
			for i := range c {
				c[i] = strings.ToLower(c[i])
			}
			slices.Sort(c)
			if *l = c; len(c) == 0 {
				*l = nil
			}
		}
		return r
	}
	return reflect.DeepEqual(norm(a), norm(b))
}

func ruleOf(text string) (r azure.SecurityRule, ok bool, err error) {
	if text == "" {
		return r, false, nil
	}
	err = json.Unmarshal([]byte(text), &r)
	if len(r.SourcePorts) == 0 {
		r.SourcePorts = []string{"*"}
	}
	return r, err == nil, err
}

func (u *undoing) rules(ctx context.Context, es []entry) error {
	var done []Undone
	var kept []Kept
	err := u.f.again(ctx, &u.tally, func() (bool, error) {
		n, err := u.f.c.Azure.NSG(ctx, es[0].Resource)
		if azure.Classify(err) == azure.NotFound {
			done, kept = nil, []Kept{{Resource: es[0].Resource, Why: "the group is gone"}}
			return false, nil
		}
		if err != nil {
			return false, err
		}
		rules, changed := slices.Clone(n.Rules), false
		var back []Undone
		kept = nil
		for _, c := range chains(es) {
			e := c[len(c)-1]
			before, had, err := ruleOf(e.Before)
			if err != nil {
				return false, err
			}
			i := slices.IndexFunc(rules, func(r azure.SecurityRule) bool { return strings.EqualFold(r.Name, e.Name) })
			ours, gone := false, false // it stands as one of our writes left it
			for _, w := range c {
				after, has, err := ruleOf(w.After)
				if err != nil {
					return false, err
				}
				ours, gone = ours || i >= 0 && has && sameRule(rules[i], after), gone || !has
			}
			keep := func(why, next string) {
				kept = append(kept, Kept{Resource: e.Resource, Name: e.Name, Why: why, Next: next})
			}
			switch {
			case i < 0 && !had, i >= 0 && had && sameRule(rules[i], before): // it stands as it was before
			case i >= 0 && !ours:
				keep("somebody has changed the rule since", "look at it, and write it by hand if it should be as it was: its original is in the undo file")
			case i < 0 && !gone:
				keep("somebody has removed the rule since", "write it by hand if it should be there: its original is in the undo file")
			case i >= 0 && !had:
				rules = slices.Delete(rules, i, i+1)
				back, changed = append(back, Undone{Resource: e.Resource, Name: e.Name, What: "the rule is removed"}), true
			case i < 0:
				if h, ours := enforce.ParseName(before.Name); ours && h.Kind == enforce.KindAllow || isDefenderAllow(before) {
					keep("it let somebody in for a time that is over: it is not put back", "ask for access again")
					continue
				}
				if taken(rules, before) {
					keep(fmt.Sprintf("priority %d is taken by another rule now", before.Priority), "free it, and undo again")
					continue
				}
				rules = append(rules, before)
				back, changed = append(back, Undone{Resource: e.Resource, Name: e.Name, What: "the rule is put back"}), true
			default:
				if before.Priority != rules[i].Priority && taken(slices.Delete(slices.Clone(rules), i, i+1), before) {
					keep(fmt.Sprintf("priority %d is taken by another rule now", before.Priority), "free it, and undo again")
					continue
				}
				rules[i] = before
				back, changed = append(back, Undone{Resource: e.Resource, Name: e.Name, What: "the rule is as it was"}), true
			}
		}
		if len(back) > 0 {
			done = back // when read again after the write, nothing is left to give back
		}
		if !changed || u.dry {
			return false, nil
		}
		live := liveUntil(newGroup(n.WithRules(rules), "", nil, nil, u.f.c.Clock.Now()))
		_, err = u.f.c.Azure.PutNSG(ctx, n.WithRules(rules), func() error {
			if !live.IsZero() && !u.f.c.Clock.Now().Before(live) {
				return errEnded
			}
			return ctx.Err()
		})
		return true, err
	})
	if err != nil {
		return err
	}
	u.out.Done, u.out.Kept = append(u.out.Done, done...), append(u.out.Kept, kept...)
	return u.note(slices.DeleteFunc(slices.Clone(es), func(e entry) bool {
		return slices.ContainsFunc(kept, func(k Kept) bool { return k.Name == e.Name })
	}))
}

// chains divides entries, latest first, by the rule that they are about. What stood before the oldest is what is given back.
func chains(es []entry) [][]entry {
	var out [][]entry
	at := map[string]int{}
	for _, e := range es {
		k := strings.ToLower(e.Name)
		i, ok := at[k]
		if !ok {
			i, at[k] = len(out), len(out)
			out = append(out, nil)
		}
		out[i] = append(out[i], e)
	}
	return out
}

func taken(rules []azure.SecurityRule, r azure.SecurityRule) bool {
	return slices.ContainsFunc(rules, func(x azure.SecurityRule) bool {
		return x.Priority == r.Priority && x.Inbound() == r.Inbound()
	})
}

// events gives a profile back: an earlier entry of the same resource wins, because it is what stood first.
func (u *undoing) events(ctx context.Context, es []entry) error {
	first, last := es[len(es)-1], es[0]
	id, err := azure.ParseID(first.Resource)
	if err != nil {
		return err
	}
	isSet, did := id.Is("Microsoft.Compute/virtualMachineScaleSets"), false
	var kept []Kept
	err = u.f.again(ctx, &u.tally, func() (bool, error) {
		var e azure.EventsProfile
		var err error
		if isSet {
			var set azure.ScaleSet
			if set, err = u.f.c.Azure.ScaleSet(ctx, first.Resource); err == nil {
				e, _ = set.Events()
			}
		} else {
			e, err = u.f.c.Azure.VMEvents(ctx, first.Resource)
		}
		if azure.Classify(err) == azure.NotFound {
			kept = []Kept{{Resource: first.Resource, Why: "it is gone"}}
			return false, nil
		}
		if err != nil {
			return false, err
		}
		was, now, wrote := noticeOf(json.RawMessage(first.Before)), noticeOf(e.Profile), noticeOf(json.RawMessage(last.After))
		switch {
		case now == was:
			return false, nil
		case now != wrote:
			kept = []Kept{{Resource: first.Resource, Why: "somebody has changed its scheduled events since", Next: "set them by hand; the original is in the undo file"}}
			return false, nil
		}
		if was.on && was.delay > 0 && (was.delay < leastNotice || was.delay > longestNotice) {
			kept = []Kept{{Resource: first.Resource, Why: fmt.Sprintf("it announced termination %s before, which Azure does not take any more", isoText(was.delay)), Next: "leave it as it is, or choose five to fifteen minutes: curfew fix --delay"}}
			return false, nil
		}
		notBefore := ""
		if was.on && was.delay > 0 {
			notBefore = isoText(was.delay)
		}
		if e.Profile, err = azure.WithTermination(e.Profile, was.on, notBefore); err != nil {
			return false, err
		}
		did = true
		if u.dry {
			return false, nil
		}
		return true, u.f.c.Azure.PatchEvents(ctx, e, ctx.Err)
	})
	if err != nil {
		return err
	}
	if u.out.Kept = append(u.out.Kept, kept...); len(kept) > 0 {
		return nil
	}
	if did {
		what := "termination is announced as it was before"
		if isSet {
			what += "; instances follow the model by the set's upgrade policy"
		}
		u.out.Done = append(u.out.Done, Undone{Resource: first.Resource, What: what})
	}
	return u.note(es)
}

func (u *undoing) policy(ctx context.Context, es []entry) error {
	var done []Undone
	var kept []Kept
	err := u.f.again(ctx, &u.tally, func() (bool, error) {
		p, err := u.f.c.Azure.JITPolicy(ctx, es[0].Resource)
		if azure.Classify(err) == azure.NotFound {
			kept = []Kept{{Resource: es[0].Resource, Why: "the policy is gone"}}
			return false, nil
		}
		if err != nil {
			return false, err
		}
		changed := false
		var back []Undone
		kept = nil
		for _, e := range es {
			raw, _, ok := p.Machine(e.Name)
			switch {
			case sameText(raw, e.Before):
			case !ok || !sameText(raw, e.After):
				kept = append(kept, Kept{Resource: e.Resource, Name: e.Name, Why: "somebody has changed the machine in the policy since", Next: "change it by hand; the original is in the undo file"})
			default:
				var next json.RawMessage
				if e.Before != "" {
					next = json.RawMessage(e.Before)
				}
				p.Properties.VirtualMachines = p.WithMachine(e.Name, next)
				back, changed = append(back, Undone{Resource: e.Resource, Name: e.Name, What: "the machine is in the policy as it was before"}), true
			}
		}
		if len(back) > 0 {
			done = back
		}
		if !changed || u.dry {
			return false, nil
		}
		if len(p.Properties.VirtualMachines) == 0 { // the policy was made for these machines alone
			return true, u.f.c.Azure.DeleteJITPolicy(ctx, es[0].Resource)
		}
		return true, u.f.c.Azure.PutJITPolicy(ctx, p, p.Properties.VirtualMachines, ctx.Err)
	})
	if err != nil {
		return err
	}
	if len(done) > 0 {
		kept = nil // a policy that we deleted is gone
	}
	u.out.Done, u.out.Kept = append(u.out.Done, done...), append(u.out.Kept, kept...)
	if len(kept) > 0 {
		return nil
	}
	return u.note(es)
}

// sameText compares two JSON texts by what they say.
func sameText(a json.RawMessage, b string) bool {
	if len(a) == 0 || b == "" {
		return len(a) == 0 && b == ""
	}
	var x, y any
	return json.Unmarshal(a, &x) == nil && json.Unmarshal([]byte(b), &y) == nil && reflect.DeepEqual(x, y)
}

func (u *undoing) protect(ctx context.Context, es []entry) error {
	if u.f.c.Protect == nil {
		return access.Errorf(access.CodeInvalid, "protection is ended by unprotect, which this run cannot use").WithHint("curfew unprotect %s", es[0].Resource)
	}
	in := api.ProtectInput{Off: true}
	by := map[string][]entry{}
	for _, e := range es {
		if by[azure.Key(e.Resource)] == nil {
			in.VMs = append(in.VMs, e.Resource)
		}
		by[azure.Key(e.Resource)] = append(by[azure.Key(e.Resource)], e)
	}
	var plan api.ProtectPlan
	var err error
	if u.dry {
		plan, err = u.f.c.Protect.PlanProtection(ctx, in)
	} else {
		plan, err = u.f.c.Protect.Protect(ctx, in)
	}
	if err != nil && len(in.VMs) > 1 { // one refuses all: each by itself then
		for _, vm := range in.VMs {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := u.protect(ctx, by[azure.Key(vm)]); err != nil {
				u.fail(ctx, by[azure.Key(vm)][0], err)
			}
		}
		return nil
	}
	switch access.CodeOf(err) {
	case access.CodeNotFound, access.CodeNotProtected:
		u.out.Kept = append(u.out.Kept, Kept{Resource: es[0].Resource, Why: "it is not protected any more"})
		return u.note(es)
	}
	if err != nil {
		return err
	}
	if !u.dry {
		u.writes += len(writesOf(plan))
	}
	for _, vm := range in.VMs {
		u.out.Done = append(u.out.Done, Undone{Resource: vm, What: "just-in-time access is switched off"})
	}
	return u.note(es)
}

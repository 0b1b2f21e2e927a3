package fix

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/scan"
)

// What Azure takes as notice of a termination. FACTS 4.1.
const (
	leastNotice   = 5 * time.Minute
	longestNotice = 15 * time.Minute
)

// eventsWork is what a step for a scale set or a machine needs to be decided again.
type eventsWork struct {
	set     bool
	model   bool // the profile is to be written where it is not right
	upgrade bool
	percent int
	delay   time.Duration
	least   time.Duration
}

// notice is a termination profile as it reads.
type notice struct {
	on     bool
	delay  time.Duration
	proper bool // the delay can be read and is one that Azure takes
}

func noticeOf(profile json.RawMessage) notice {
	var p struct {
		T *struct {
			Enable    *bool   `json:"enable"`
			NotBefore *string `json:"notBeforeTimeout"`
		} `json:"terminateNotificationProfile"`
	}
	if json.Unmarshal(profile, &p) != nil || p.T == nil || p.T.Enable == nil || !*p.T.Enable {
		return notice{}
	}
	if p.T.NotBefore == nil || *p.T.NotBefore == "" {
		return notice{true, leastNotice, true}
	}
	d, err := scan.ParseDuration(*p.T.NotBefore)
	return notice{true, d, err == nil && d >= leastNotice && d <= longestNotice}
}

// wanted returns the profile as it should be, nil where it is right as it is. A notice that is long enough stays as it is.
func (w eventsWork) wanted(profile json.RawMessage) (json.RawMessage, time.Duration, error) {
	n := noticeOf(profile)
	if n.on && n.proper && n.delay >= w.least {
		return nil, n.delay, nil
	}
	d := w.delay
	if n.proper {
		d = max(d, n.delay)
	}
	out, err := azure.WithTermination(profile, true, isoText(d))
	return out, d, err
}

func isoText(d time.Duration) string {
	if d%time.Minute == 0 {
		return fmt.Sprintf("PT%dM", d/time.Minute)
	}
	return fmt.Sprintf("PT%dS", d/time.Second)
}

// sets plans what makes scale sets and machines announce termination.
func (b *builder) sets(ctx context.Context, xs []scan.Finding) {
	steps := map[string]*Step{}
	for _, x := range xs {
		key := azure.Key(x.Resource)
		if s := steps[key]; s != nil {
			s.finding(x.ID)
			continue
		}
		id, err := azure.ParseID(x.Resource)
		if err != nil {
			b.left(x, "scan again", "%v", err)
			continue
		}
		w := &eventsWork{set: id.Is("Microsoft.Compute/virtualMachineScaleSets"), upgrade: b.o.Upgrade, percent: b.o.Unavailable, delay: b.o.Delay, least: b.o.LeastDelay}
		s := &Step{Kind: MachineStep, Resource: x.Resource, events: w, Title: "machine " + b.names.of(x.Resource)}
		if w.set {
			s.Kind, s.Title = ScaleSetStep, "scale set "+b.names.of(x.Resource)
			err = b.set(ctx, s)
		} else {
			err = b.events(ctx, s)
		}
		if err != nil {
			b.unread(x, err)
			continue
		}
		s.finding(x.ID)
		steps[key] = s
		b.order = append(b.order, s)
	}
}

func (b *builder) events(ctx context.Context, s *Step) error {
	e, err := b.f.c.Azure.VMEvents(ctx, s.Resource)
	if err != nil {
		return err
	}
	return s.model(e, "the machine")
}

// model adds what is written to a profile.
func (s *Step) model(e azure.EventsProfile, of string) error {
	want, d, err := s.events.wanted(e.Profile)
	if err != nil {
		return err
	}
	if want != nil {
		s.events.model = true
		s.Writes = append(s.Writes, fmt.Sprintf("%s announces termination %s before it happens (terminateNotificationProfile: enable true, notBeforeTimeout %s)", of, minutes(d), isoText(d)))
		s.Keeps = append(s.Keeps, "everything else of "+of+": what stands beside it in scheduledEventsProfile, tags, and what is not known here")
	}
	return nil
}

func minutes(d time.Duration) string {
	if d%time.Minute == 0 {
		return fmt.Sprintf("%d minutes", d/time.Minute)
	}
	return d.String()
}

func (b *builder) set(ctx context.Context, s *Step) error {
	set, err := b.f.c.Azure.ScaleSet(ctx, s.Resource)
	if err != nil {
		return err
	}
	e, ok := set.Events()
	if !ok {
		return invalid("", "scale set %s has no model of its own", "fix its machines: each has its own scheduled events", set.Name)
	}
	if err := s.model(e, "the model of the set"); err != nil {
		return err
	}
	if set.Flexible() {
		s.Notes = append(s.Notes, "machines that stand already keep what they have: each is a finding of its own, and is written by itself")
		return nil
	}
	all, err := b.f.c.Azure.Instances(ctx, s.Resource)
	if err != nil {
		return err
	}
	behind := outdated(all, set, s.events.model)
	mode := upgradeMode(set)
	switch {
	case len(all) == 0 || len(behind) == 0:
	case strings.EqualFold(mode, "Automatic") && s.events.model:
		s.Notes = append(s.Notes, fmt.Sprintf("Azure brings %s to the model by itself: the set's upgrade mode is Automatic", several(len(all), "instance")))
	case strings.EqualFold(mode, "Rolling") && s.events.model:
		s.Notes = append(s.Notes, fmt.Sprintf("Azure brings %s to the model in batches, by the set's own rolling upgrade policy", several(len(all), "instance")))
	case s.events.upgrade:
		n := batch(len(all), s.events.percent)
		s.Writes = append(s.Writes, fmt.Sprintf("%d of %s brought to the model, %d at a time, each batch after the one before has ended; it stops where one fails", len(behind), are(len(all)), n))
		s.Notes = append(s.Notes, "bringing an instance to the model applies every change of the model that it has not got yet, and Azure may restart it for others than this")
	default:
		s.Notes = append(s.Notes, fmt.Sprintf("%d of %s not brought to the model, because the set's upgrade mode is %s: add --upgrade-instances", len(behind), are(len(all)), mode))
	}
	return nil
}

// are is a number of instances and the verb.
func are(n int) string {
	if n == 1 {
		return "1 instance is"
	}
	return fmt.Sprintf("%d instances are", n)
}

func upgradeMode(set azure.ScaleSet) string {
	if p := set.Properties.UpgradePolicy; p != nil && p.Mode != "" {
		return p.Mode
	}
	return "Manual"
}

// outdated are the ids of instances that are not on the model, all where the model is about to change.
func outdated(all []azure.Instance, set azure.ScaleSet, changes bool) []string {
	var out []string
	for _, i := range all {
		if changes || i.Properties.LatestModelApplied == nil || !*i.Properties.LatestModelApplied {
			out = append(out, i.InstanceID)
		}
	}
	return out
}

func batch(all, percent int) int { return max(1, all*percent/100) }

// applyEvents writes a profile where it is not right, and brings instances to it.
func (f *Fixer) applyEvents(ctx context.Context, s *Step, out *StepOutcome, t *tally) error {
	w := *s.events
	var set azure.ScaleSet
	read := func() (e azure.EventsProfile, err error) {
		if !w.set {
			return f.c.Azure.VMEvents(ctx, s.Resource)
		}
		if set, err = f.c.Azure.ScaleSet(ctx, s.Resource); err != nil {
			return e, err
		}
		e, ok := set.Events()
		if !ok {
			return e, invalid("", "scale set %s has no model of its own any more", "scan again", set.Name)
		}
		return e, nil
	}
	err := f.again(ctx, t, func() (bool, error) {
		e, err := read()
		if err != nil {
			return false, err
		}
		want, _, err := w.wanted(e.Profile)
		if err != nil || want == nil {
			return false, err
		}
		if err := f.rec.keep(entry{Kind: kindEvents, Resource: e.ID, Before: string(e.Profile), After: string(want)}); err != nil {
			return false, err
		}
		e.Profile = want
		return true, f.c.Azure.PatchEvents(ctx, e, ctx.Err)
	})
	if err != nil || !w.set || set.Flexible() {
		return err
	}
	mode := upgradeMode(set)
	if t.writes > 0 && !strings.EqualFold(mode, "Manual") {
		out.Notes = append(out.Notes, "Azure brings the instances to the model by the set's upgrade policy ("+mode+"); it may take a while")
		return nil
	}
	all, err := f.c.Azure.Instances(ctx, s.Resource)
	if err != nil {
		return err
	}
	behind := outdated(all, set, false)
	if len(behind) == 0 {
		return nil
	}
	if !w.upgrade {
		out.Notes = append(out.Notes, fmt.Sprintf("%d of %s not on the model: run fix again with --upgrade-instances", len(behind), are(len(all))))
		return nil
	}
	done := 0
	for ids := range slices.Chunk(behind, batch(len(all), w.percent)) {
		err := f.c.Azure.UpgradeInstances(ctx, s.Resource, ids, ctx.Err)
		if t.sent(err); err != nil {
			e := *azure.UserError(err)
			e.Message = fmt.Sprintf("%d of %s on the model; then instance %s failed: %s", done, are(len(behind)), list(ids, 5), e.Message)
			return e.WithHint("look at these instances, then run fix again: it goes on with those that are left")
		}
		done += len(ids)
	}
	return nil
}

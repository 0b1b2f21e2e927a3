package scan

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// What Azure takes as the time between the announcement of a termination and the termination. FACTS 4.1.
const (
	leastNotice   = 5 * time.Minute
	longestNotice = 15 * time.Minute
)

// notice is a terminate notification as it is meant.
type notice struct {
	on    bool
	off   string // why not on
	delay time.Duration
	plain bool  // the delay is Azure's default: none is given
	err   error // the delay could not be read
}

// noticeOf reads a profile. Null, {}, a missing enable and false are all off, and so Azure gives back what is switched off; a notification
// that is on without a time takes five minutes. FACTS 4.1.
func noticeOf(t estate.Terminate) notice {
	switch {
	case !t.Profile:
		return notice{off: "it has no scheduledEventsProfile"}
	case !t.Present:
		return notice{off: "its scheduledEventsProfile has no terminateNotificationProfile"}
	case t.Enable == nil:
		return notice{off: "its terminateNotificationProfile does not say enable"}
	case !*t.Enable:
		return notice{off: "its terminateNotificationProfile says enable: false"}
	case t.NotBefore == "":
		return notice{on: true, delay: leastNotice, plain: true}
	}
	d, err := ParseDuration(t.NotBefore)
	return notice{on: true, delay: d, err: err}
}

func (n notice) facts(t estate.Terminate) []Fact {
	told := func(b *bool) string {
		if b == nil {
			return "not told"
		}
		return fmt.Sprint(*b)
	}
	fs := []Fact{{"scheduledEventsProfile", present(t.Profile)}, {"terminateNotificationProfile", present(t.Present)}, {"enable", told(t.Enable)}}
	if t.NotBefore != "" {
		fs = append(fs, Fact{"notBeforeTimeout", t.NotBefore})
	}
	if n.on && n.err == nil {
		fs = append(fs, Fact{"delay", durationText(n.delay)})
	}
	return fs
}

func present(b bool) string {
	if b {
		return "present"
	}
	return "absent"
}

// announced judges vmss-terminate-notification-off by the profile alone.
func (n notice) announced() verdict {
	switch {
	case !n.on:
		return verdict{status: Fail, reason: say("termination is not announced: " + n.off)}
	case n.err != nil:
		return verdict{status: Unknown, reason: say("termination is announced, but not clear how long before: " + n.err.Error())}
	case n.delay < leastNotice || n.delay > longestNotice:
		return verdict{status: Fail, reason: say(fmt.Sprintf("termination is announced %s before it happens, outside the 5 to 15 minutes that Azure takes", durationText(n.delay)))}
	case n.plain:
		return verdict{status: Pass, reason: say("termination is announced 5 minutes before it happens, Azure's default, for no time is set")}
	}
	return verdict{status: Pass, reason: say("termination is announced " + durationText(n.delay) + " before it happens")}
}

// early judges vmss-terminate-delay-short.
func (j *judge) early(n notice) verdict {
	least := durationText(j.o.LeastDelay)
	switch {
	case !n.on:
		return verdict{status: NotApplicable, reason: say("termination is not announced at all")}
	case n.err != nil:
		return verdict{status: Unknown, reason: say("it is not clear how long before it happens termination is announced: " + n.err.Error())}
	case n.delay < j.o.LeastDelay:
		return verdict{status: Fail, reason: say(fmt.Sprintf("termination is announced %s before it happens, later than the configured %s", durationText(n.delay), least))}
	}
	return verdict{status: Pass, reason: say(fmt.Sprintf("termination is announced %s before it happens, and %s are asked for", durationText(n.delay), least))}
}

const spotReason = "Spot instances cannot announce termination; they announce eviction, 30 seconds before"

// scaleSet judges the set's own model and, of a Uniform set, whether its instances are on it. The machines of a Flexible set are judged
// each with the machines.
func (j *judge) scaleSet(b *batch, s *estate.ScaleSet) {
	for i := range s.Problems {
		if p := &s.Problems[i]; strings.EqualFold(p.Resource, s.ID) {
			for _, r := range []RuleID{VMSSTerminateOff, VMSSTerminateShort} {
				j.found(b, r, &s.Meta, typeScaleSet, verdict{status: Unknown, reason: say(p.What)})
			}
			return
		}
	}
	why := managed(&s.Meta)
	switch {
	case why != "":
	case s.Spot:
		why = spotReason
	case !s.HasProfile && s.Flexible:
		why = "it has no profile of its own: its machines are judged each"
	case !s.HasProfile:
		why = "it has no profile: it makes no instances"
	}
	if why != "" {
		for _, r := range []RuleID{VMSSTerminateOff, VMSSTerminateShort} {
			j.found(b, r, &s.Meta, typeScaleSet, verdict{status: NotApplicable, reason: say(why)})
		}
		return
	}
	n := noticeOf(s.Terminate)
	facts := func() []Fact {
		fs := n.facts(s.Terminate)
		if s.UpgradeMode != "" {
			fs = append(fs, Fact{"upgrade mode", s.UpgradeMode})
		}
		if !s.Flexible && s.InstancesRead {
			fs = append(fs, Fact{"instances", fmt.Sprint(len(s.Instances))})
		}
		return fs
	}
	v := n.announced()
	v.evidence = func() Evidence { return Evidence{Facts: facts()} }
	if v.status == Pass && !s.Flexible {
		j.instances(s, &v, facts)
	}
	j.found(b, VMSSTerminateOff, &s.Meta, typeScaleSet, v)
	v = j.early(n)
	v.evidence = func() Evidence { return Evidence{Facts: facts()} }
	j.found(b, VMSSTerminateShort, &s.Meta, typeScaleSet, v)
}

// instances makes a pass of the model fail where instances are not on the latest model, and unknown where that was not read.
func (j *judge) instances(s *estate.ScaleSet, v *verdict, facts func() []Fact) {
	behind, silent, first := 0, 0, ""
	for i := range s.Instances {
		in := &s.Instances[i]
		switch {
		case in.Latest == nil:
			silent++
		case !*in.Latest:
			if behind++; behind == 1 {
				first = in.InstanceID
			}
		}
	}
	switch {
	case behind > 0:
		v.status = Fail
		v.reason = say(fmt.Sprintf("termination is announced by the model, but %d of %d instances are not on the latest model (first: %s)", behind, len(s.Instances), first))
		v.evidence = func() Evidence {
			return Evidence{Facts: append(facts(), Fact{"instances not on the latest model", fmt.Sprint(behind)})}
		}
	case !s.InstancesRead:
		v.status, v.reason = Unknown, say("termination is announced by the model, but the instances could not be read"+problemText(s.Problems))
	case silent > 0:
		v.status = Unknown
		v.reason = say(fmt.Sprintf("termination is announced by the model, but %d of %d instances do not say whether they are on the latest model", silent, len(s.Instances)))
	}
}

func problemText(ps []estate.Problem) string {
	if len(ps) == 0 {
		return ""
	}
	return ": " + ps[0].What
}

// terminateVM judges a machine by its own profile: one of a Flexible scale set always, any other on request.
func (j *judge) terminateVM(b *batch, v *estate.VM, owned string) {
	if v.ScaleSet == "" && !j.o.SingleVMs || !j.want[VMSSTerminateOff] && !j.want[VMSSTerminateShort] {
		return
	}
	if v.Spot && owned == "" {
		owned = spotReason
	}
	if owned != "" {
		for _, r := range []RuleID{VMSSTerminateOff, VMSSTerminateShort} {
			j.found(b, r, &v.Meta, typeVM, verdict{status: NotApplicable, reason: say(owned)})
		}
		return
	}
	if i := slices.IndexFunc(v.Problems, func(p estate.Problem) bool { return strings.EqualFold(p.Resource, v.ID) }); i >= 0 {
		for _, r := range []RuleID{VMSSTerminateOff, VMSSTerminateShort} {
			j.found(b, r, &v.Meta, typeVM, verdict{status: Unknown, reason: say(v.Problems[i].What)})
		}
		return
	}
	n := noticeOf(v.Terminate)
	for _, r := range []RuleID{VMSSTerminateOff, VMSSTerminateShort} {
		x := n.announced()
		if r == VMSSTerminateShort {
			x = j.early(n)
		}
		x.evidence = func() Evidence {
			fs := n.facts(v.Terminate)
			if v.ScaleSet != "" {
				fs = append(fs, Fact{"scale set", v.ScaleSet})
			}
			return Evidence{Facts: fs}
		}
		j.found(b, r, &v.Meta, typeVM, x)
	}
}

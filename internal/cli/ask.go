package cli

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
)

// askOptions say what is asked for. request create, ensure, ssh and plan request share them.
type askOptions struct {
	ports    []string
	protocol string
	from     string
	duration string
	at       string
	reason   string
	ticket   string
	noWait   bool
	timeout  string
}

func (o *askOptions) flags(cmd *cobra.Command, at, wait bool) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.duration, "for", "", "`DURATION` of the access, counted from the opening: 45m, 1h30m, 1d (default: what the policy says, 1h where it says nothing)")
	f.StringVarP(&o.reason, "reason", "r", "", "why: it is shown to approvers and stands in the audit log")
	f.StringVar(&o.ticket, "ticket", "", "ticket number")
	f.StringVar(&o.from, "from", "my-ip", "`ADDRESS` or CIDR that may connect; my-ip is the address that the server sees")
	if at {
		f.StringSliceVarP(&o.ports, "port", "p", nil, "`PORT` or range, several with commas (default 22 on Linux, 3389 on Windows)")
		f.StringVar(&o.protocol, "protocol", "tcp", "tcp or udp")
		f.StringVar(&o.at, "at", "", "`TIME` of the opening: 17:30, \"tomorrow 09:00\", RFC 3339 (default: once approved)")
	}
	if wait {
		f.BoolVar(&o.noWait, "no-wait", false, "return once the request stands")
	}
	f.StringVar(&o.timeout, "timeout", "", "`DURATION` to wait for decision and opening (default: until the request expires)")
	if !wait {
		_ = f.MarkHidden("timeout")
	}
	_ = cmd.RegisterFlagCompletionFunc("for", cobra.FixedCompletions([]string{"30m", "1h", "2h", "4h"}, cobra.ShellCompDirectiveNoFileComp|cobra.ShellCompDirectiveKeepOrder))
	_ = cmd.RegisterFlagCompletionFunc("from", cobra.FixedCompletions([]string{"my-ip"}, cobra.ShellCompDirectiveNoFileComp))
}

// input turns the options into what the server is asked. All that can be judged without the server is judged here.
func (c *cli) input(vms []string, o askOptions) (api.RequestInput, error) {
	in := api.RequestInput{VMs: vms, Source: "my-ip", Reason: o.reason, Ticket: o.ticket}
	var err error
	if in.Ports, err = parsePorts(o.ports); err != nil {
		return in, err
	}
	if in.Protocol, err = access.ParseProtocol(o.protocol); err != nil {
		return in, err
	}
	if !strings.EqualFold(o.from, "my-ip") && o.from != "" {
		p, err := access.ParseSource(o.from)
		if err != nil {
			return in, err
		}
		in.Source = p.String()
	}
	if o.duration != "" {
		d, err := access.ParseDuration(o.duration)
		if err != nil {
			return in, err
		}
		if d < access.MinDuration {
			return in, badInput("duration", "%s is shorter than the least duration, %s", access.Duration(d), access.Duration(access.MinDuration)).
				WithHint("ask with --for %s", access.Duration(access.MinDuration))
		}
		in.Duration = api.Duration(d)
	}
	if o.at != "" {
		if in.StartAt, err = parseAt(o.at, c.now(), c.Location); err != nil {
			return in, err
		}
		if in.StartAt.Before(c.now().Add(-time.Minute)) {
			return in, badInput("start", "start %s is in the past; it is %s now", clockTime(in.StartAt, c.now(), c.Location), clockTime(c.now(), c.now(), c.Location)).
				WithHint("leave --at out to start as soon as it is approved")
		}
	}
	return in, nil
}

func parsePorts(ss []string) ([]api.Ports, error) {
	var out []api.Ports
	for _, s := range ss {
		p, err := access.ParsePorts(s)
		if err != nil {
			return nil, err
		}
		if !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return out, nil
}

func (o askOptions) deadline(now time.Time) (time.Time, error) {
	if o.timeout == "" {
		return time.Time{}, nil
	}
	d, err := access.ParseDuration(o.timeout)
	if err != nil {
		return time.Time{}, err
	}
	return now.Add(d), nil
}

// newKey makes an idempotency key: a call that is sent again after a lost reply makes no second request.
func newKey() string { return rand.Text() }

// ask creates a request and says what was asked, with the address and the instant spelled out.
func (c *cli) ask(ctx context.Context, cl *client.Client, in api.RequestInput) (api.Request, error) {
	r, err := cl.CreateRequest(ctx, in, newKey())
	if err != nil {
		return r, err
	}
	c.say("asked: request %s for %s", r.ID, c.terms(r.Asked, r.StartAt))
	return r, nil
}

// terms puts what is asked for in words: "web-01 port 22/tcp from 203.0.113.9 for 1h".
func (c *cli) terms(t api.Terms, start time.Time) string {
	s := fmt.Sprintf("%s from %s for %s", targets(t.Targets), source(t.Source), t.Duration)
	if !start.IsZero() {
		s += ", starting " + c.exact(start)
	}
	return s
}

// exact is an instant with its zone, and the same in UTC where that is another.
func (c *cli) exact(t time.Time) string {
	s := clockTime(t, c.now(), c.Location)
	if _, offset := t.In(c.Location).Zone(); offset != 0 {
		s += " (" + t.UTC().Format("2006-01-02 15:04 UTC") + ")"
	}
	return s
}

func targets(ts []api.Target) string {
	var order []string
	ports := map[string][]string{}
	for _, t := range ts {
		if _, ok := ports[t.VM.Name]; !ok {
			order = append(order, t.VM.Name)
		}
		ports[t.VM.Name] = append(ports[t.VM.Name], portOf(t.Port, t.Protocol))
	}
	for i, n := range order {
		order[i] = n + " port " + strings.Join(ports[n], ", ")
	}
	return strings.Join(order, "; ")
}

func portOf(p api.Ports, proto api.Protocol) string {
	if proto == "" {
		proto = access.TCP
	}
	return p.String() + "/" + string(proto)
}

// source is a prefix, or the address alone where it is one.
func source(p netip.Prefix) string {
	if p.IsValid() && p.IsSingleIP() {
		return p.Addr().String()
	}
	return p.String()
}

// notReadyLimit is how long an opening that is written, and would not let the caller in, is watched before that is the answer.
const notReadyLimit = 30 * time.Second

// follow waits until the request is decided and what it asked for is open and verified, and says what changes, once each. A request
// with a start in the future is followed to its decision. The request outlives whatever ends the waiting.
func (c *cli) follow(ctx context.Context, cl *client.Client, r api.Request, deadline time.Time) (api.Request, []api.Grant, error) {
	if deadline.IsZero() && !r.ExpiresAt.IsZero() {
		deadline = r.ExpiresAt.Add(access.ActivationLimit) // also where the server is gone for good
	}
	w := &waiter{cli: c, ctx: ctx, deadline: deadline, what: "request " + r.ID, see: "curfew request show " + r.ID, cancel: "curfew request cancel " + r.ID}
	for {
		switch r.State {
		case access.Pending:
			left := ""
			if r.Needed > 1 {
				left = fmt.Sprintf(" (%d of %s given)", r.Needed-r.Missing, count(r.Needed, "approval"))
			}
			w.note("waiting for approval%s; unanswered, it expires at %s", left, clockTime(r.ExpiresAt, c.now(), c.Location))
		case access.Denied:
			return r, nil, access.Errorf(access.CodeDenied, "request %s is denied%s", r.ID, decidedBy(r))
		case access.Cancelled:
			return r, nil, access.Errorf(access.CodeConflict, "request %s is cancelled", r.ID)
		case access.Expired:
			return r, nil, access.Errorf(access.CodeTimeout, "request %s expired at %s: nobody answered it", r.ID, clockTime(r.ExpiresAt, c.now(), c.Location)).
				WithHint("ask again, and tell an approver")
		case access.Approved:
			if r.BreakGlass {
				w.note("break-glass: it opens before anybody agrees")
			} else {
				w.note("approved%s%s", decidedBy(r), c.narrowed(r))
			}
			if r.Extends != "" {
				g, err := cl.Grant(ctx, r.Extends)
				return r, []api.Grant{g}, err
			}
			if !r.StartAt.IsZero() && r.StartAt.Sub(c.now()) > time.Minute {
				c.say("it opens at %s; see it with: %s", c.exact(r.StartAt), c.command("grant list"))
				gs, err := c.grantsOf(ctx, cl, r)
				return r, gs, err
			}
			w.cancel = ""
			gs, done, err := c.opening(ctx, cl, r, w)
			if err != nil || done {
				return r, gs, err
			}
		default:
			return r, nil, access.Errorf(access.CodeInternal, "request %s is in a state that this version does not know: %s", r.ID, r.State)
		}
		if err := w.pause(); err != nil {
			return r, nil, err
		}
		next, err := cl.Request(ctx, r.ID)
		if err = w.settle(err); err != nil {
			return r, nil, err
		}
		if next.ID != "" {
			r = next
		}
	}
}

// opening looks once at the grants of an approved request; done means that all are open and verified.
func (c *cli) opening(ctx context.Context, cl *client.Client, r api.Request, w *waiter) ([]api.Grant, bool, error) {
	gs, err := c.grantsOf(ctx, cl, r)
	if err = w.settle(err); err != nil {
		return gs, false, err
	}
	ready := 0
	for _, g := range gs {
		name := g.VM.Name + " port " + portOf(g.Port, g.Protocol)
		if len(g.ID) > 0 {
			w.cancel = "curfew grant close " + g.ID
		}
		switch g.State {
		case access.Active:
			if g.Ready {
				ready++
				w.noteOn(g.ID, "open: %s from %s, %s", name, source(g.Source), until(g.EndsAt, c.now(), c.Location))
				continue
			}
			why := g.NotReady
			if why == "" {
				why = "not verified yet"
			}
			w.noteOn(g.ID, "written, not open yet: %s: %s", name, why)
			if g.NotReady != "" && w.since(g.ID+g.NotReady) > notReadyLimit {
				return gs, false, access.Errorf(access.CodeUnavailable, "the rule for %s is written, yet you would not get in: %s", name, g.NotReady).
					WithHint("see what decides with: curfew plan request %s --port %s\nshut it with: curfew grant close %s", g.VM.Name, g.Port, g.ID)
			}
		case access.Scheduled, access.Activating:
			line := "opening " + name
			if g.LastError != "" {
				line += ": tried, and goes on: " + g.LastError
			}
			w.noteOn(g.ID, "%s", line)
		case access.ActivationFailed:
			why := g.LastError
			if why == "" {
				why = "the opening was not done in time"
			}
			return gs, false, access.Errorf(access.CodeUnavailable, "%s could not be opened: %s. Nothing is left open", name, why).
				WithHint("see what is wrong with: curfew grant show %s", g.ID)
		default:
			return gs, false, access.Errorf(access.CodeConflict, "grant %s on %s is %s%s", g.ID, name, g.State, endedBy(g))
		}
	}
	return gs, len(gs) > 0 && ready == len(gs), nil
}

func (c *cli) grantsOf(ctx context.Context, cl *client.Client, r api.Request) ([]api.Grant, error) {
	var gs []api.Grant
	for _, id := range r.Grants {
		g, err := cl.Grant(ctx, id)
		if err != nil {
			return gs, err
		}
		gs = append(gs, g)
	}
	return gs, nil
}

func endedBy(g api.Grant) string {
	s := ""
	if g.EndedBy != "" {
		s = " by " + g.EndedBy
	}
	if g.EndReason != "" {
		s += " (" + strings.ReplaceAll(g.EndReason, "_", " ") + ")"
	}
	return s
}

func decidedBy(r api.Request) string {
	decision := map[access.RequestState]access.Decision{access.Approved: access.Approve, access.Denied: access.Deny}[r.State]
	var who []string
	comment := ""
	for _, v := range r.Reviews {
		if v.Decision == string(decision) {
			who, comment = append(who, v.Reviewer), v.Comment
		}
	}
	if len(who) == 0 {
		return ""
	}
	s := " by " + strings.Join(who, ", ")
	if comment != "" {
		s += ": " + comment
	}
	return s
}

// narrowed says what reviews took away.
func (c *cli) narrowed(r api.Request) string {
	if targets(r.Asked.Targets) == targets(r.Terms.Targets) && r.Asked.Source == r.Terms.Source && r.Asked.Duration == r.Terms.Duration {
		return ""
	}
	return "; narrowed to " + c.terms(r.Terms, time.Time{})
}

// waiter paces the calls while a command waits, and keeps it from saying the same thing twice.
type waiter struct {
	*cli
	ctx      context.Context
	deadline time.Time
	what     string
	see      string // the command that shows it
	cancel   string // the command that takes back what is waited for
	step     time.Duration
	said     map[string]string
	seen     map[string]time.Time
	away     bool
}

func (w *waiter) note(format string, args ...any) { w.noteOn("", format, args...) }

func (w *waiter) noteOn(key, format string, args ...any) {
	if w.said == nil {
		w.said = map[string]string{}
	}
	if s := fmt.Sprintf(format, args...); w.said[key] != format+strings.Join(steady(args), "\x00") {
		w.said[key] = format + strings.Join(steady(args), "\x00")
		w.say("%s", s)
	}
}

// steady drops the time left from what is compared: it changes by itself and is no news.
func steady(args []any) []string {
	var out []string
	for _, a := range args {
		s := fmt.Sprint(a)
		if _, rest, ok := strings.Cut(s, ", until "); ok {
			s = rest
		}
		out = append(out, s)
	}
	return out
}

func (w *waiter) since(key string) time.Duration {
	if w.seen == nil {
		w.seen = map[string]time.Time{}
	}
	if _, ok := w.seen[key]; !ok {
		w.seen[key] = w.now()
	}
	return w.now().Sub(w.seen[key])
}

// pause waits a little longer each time, up to two seconds.
func (w *waiter) pause() error {
	w.step = min(max(w.step*5/4, 200*time.Millisecond), 2*time.Second)
	step := w.step
	if !w.deadline.IsZero() {
		left := w.deadline.Sub(w.now())
		if left <= 0 {
			return w.left(access.Errorf(access.CodeTimeout, "%s is not there yet, and the time to wait for it is over", w.what))
		}
		step = min(step, left)
	}
	select {
	case <-w.ctx.Done():
		return w.left(access.Errorf(access.CodeUnavailable, "interrupted: %s stands as it is", w.what))
	case <-w.Clock.After(step):
		return nil
	}
}

func (w *waiter) left(e *access.Error) error {
	hint := "see it with: " + w.see
	if w.cancel != "" {
		hint += "\ntake it back with: " + w.cancel
	}
	return e.WithHint("%s", hint)
}

// settle keeps waiting through a server that is away for a while, as in an upgrade.
func (w *waiter) settle(err error) error {
	if err == nil {
		if w.away {
			w.away = false
			w.say("the server answers again")
		}
		return nil
	}
	if w.ctx.Err() != nil {
		return w.left(access.Errorf(access.CodeUnavailable, "interrupted: %s stands as it is", w.what))
	}
	switch access.CodeOf(err) {
	case access.CodeUnavailable, access.CodeRateLimited:
		if !w.away {
			w.away = true
			w.say("the server does not answer; trying on")
		}
		return nil
	}
	return err
}

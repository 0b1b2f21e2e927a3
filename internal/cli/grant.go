package cli

import (
	"context"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
)

func (c *cli) grantCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "grant", Short: "What is open, for whom and until when; extend, close, revoke"}
	cmd.AddCommand(c.grantListCmd(), c.grantShowCmd(), c.grantExtendCmd(), c.grantCloseCmd(), c.grantRevokeCmd())
	return cmd
}

// liveStates are those in which something of a grant stands, or will.
var liveStates = []access.GrantState{access.Scheduled, access.Activating, access.Active, access.Closing, access.CloseFailed}

func (c *cli) grantListCmd() *cobra.Command {
	var f client.GrantFilter
	var states []string
	var all bool
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List live and scheduled grants, newest first", Args: need(0, 0, "no arguments"),
		Example: "curfew grant list\ncurfew grant list --all --vm web-01",
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range states {
				if !contains(access.GrantStates, access.GrantState(s)) {
					return badInput("state", "state %q is none of %s", s, join(access.GrantStates))
				}
				f.States = append(f.States, access.GrantState(s))
			}
			if all && len(states) > 0 {
				return badInput("all", "--all and --state contradict each other")
			}
			if !all && len(states) == 0 {
				f.States = liveStates
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			gs, err := pages(limit, func(p client.Page) (api.List[api.Grant], error) {
				f.Page = p
				return cl.Grants(cmd.Context(), f)
			})
			if err != nil {
				return err
			}
			return c.show(items(gs), func() string { return c.grantTable(gs) })
		},
	}
	fl := cmd.Flags()
	fl.BoolVar(&all, "all", false, "those that are over as well")
	fl.StringSliceVar(&states, "state", nil, "only these `STATES`: "+join(access.GrantStates))
	fl.BoolVar(&f.Mine, "mine", false, "only your own")
	fl.StringVar(&f.VM, "vm", "", "only grants on this `VM`")
	fl.StringVar(&f.Request, "request", "", "only grants of this `REQUEST`")
	fl.IntVar(&limit, "limit", 100, "at most this many")
	_ = cmd.RegisterFlagCompletionFunc("state", fixed(access.GrantStates))
	_ = cmd.RegisterFlagCompletionFunc("vm", c.completeVMs(false))
	return cmd
}

func (c *cli) grantTable(gs []api.Grant) string {
	if len(gs) == 0 {
		c.say("no grants: nothing is open")
		return ""
	}
	t := newTable("ID", "STATE", "VM", "PORT", "FROM", "WHO", "TIME")
	for _, g := range gs {
		t.row(g.ID, grantState(g), g.VM.Name, portOf(g.Port, g.Protocol), source(g.Source), g.Requester, c.grantTime(g))
	}
	return t.String()
}

// grantState is the state with what a reader must know beside it.
func grantState(g api.Grant) string {
	s := string(g.State)
	var more []string
	if g.State == access.Active && !g.Ready {
		more = append(more, "not verified")
	}
	for word, is := range map[string]bool{"overdue": g.Overdue, "drifted": g.Drifted, "break-glass": g.BreakGlass} {
		if is {
			more = append(more, word)
		}
	}
	slices.Sort(more)
	if len(more) > 0 {
		s += " (" + strings.Join(more, ", ") + ")"
	}
	return s
}

// grantTime is the time left first, then the clock time; for what is over, when it was shut.
func (c *cli) grantTime(g api.Grant) string {
	now := c.now()
	switch {
	case !g.EndedAt.IsZero():
		return "shut " + ago(g.EndedAt, now) + ", at " + clockTime(g.EndedAt, now, c.Location)
	case g.EndsAt.IsZero() && g.NotBefore.After(now):
		return "opens in " + span(g.NotBefore.Sub(now)) + ", at " + clockTime(g.NotBefore, now, c.Location)
	case g.EndsAt.IsZero():
		return ""
	case g.Overdue && now.Before(g.EndsAt): // it was to be shut early, and that has failed so far
		return "should have shut already, and is tried again; its time ends " + clockTime(g.EndsAt, now, c.Location)
	case g.Overdue:
		return "overdue by " + span(now.Sub(g.EndsAt)) + ", should have shut " + clockTime(g.EndsAt, now, c.Location)
	}
	return until(g.EndsAt, now, c.Location)
}

func (c *cli) grantLine(g api.Grant) string {
	s := grantState(g) + ": " + g.VM.Name + " port " + portOf(g.Port, g.Protocol) + " from " + source(g.Source)
	if t := c.grantTime(g); t != "" {
		s += ", " + t
	}
	return s
}

func (c *cli) grantText(g api.Grant) string {
	var f fields
	f.add("grant", g.ID)
	f.add("state", grantState(g))
	f.add("time", c.grantTime(g))
	f.add("target", g.VM.Name+" port "+portOf(g.Port, g.Protocol))
	f.add("from", source(g.Source))
	f.add("who", g.Requester)
	f.add("request", g.Request)
	f.add("connect", strings.Join(g.Connect, "\n"))
	if !g.StartsAt.IsZero() {
		f.add("opened", c.exact(g.StartsAt))
	}
	if !g.EndsAt.IsZero() {
		f.add("ends", c.exact(g.EndsAt))
	}
	if !g.ReadyAt.IsZero() {
		f.add("verified", c.exact(g.ReadyAt)+": the effective rules let this source in")
	}
	f.add("not ready", g.NotReady)
	f.add("ended", strings.TrimSpace(strings.TrimPrefix(endedBy(g), " ")))
	f.add("last error", g.LastError)
	if g.Restored > 0 {
		f.add("put back", count(g.Restored, "time")+" after somebody else removed it")
	}
	f.add("rules in", strings.Join(g.NSGs, "\n"))
	f.add("vm id", g.VM.ID)
	return f.String()
}

func (c *cli) grantShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show ID", Short: "Show one grant, and where to connect to", Args: need(1, 1, "the id of a grant"),
		ValidArgsFunction: c.completeGrants(),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			g, err := cl.Grant(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.show(g, func() string { return c.grantText(g) })
		},
	}
}

func (c *cli) grantExtendCmd() *cobra.Command {
	var o askOptions
	cmd := &cobra.Command{
		Use: "extend ID", Short: "Ask for more time on a live grant; it stays open meanwhile",
		Long:              "Makes a request that needs its own review. The grant is lengthened without a gap, within the longest time in total.",
		Example:           "curfew grant extend g-0123456789 --for 30m --reason \"not done yet\"",
		Args:              need(1, 1, "the id of a grant"),
		ValidArgsFunction: c.completeGrants(access.Activating, access.Active),
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := access.ParseDuration(o.duration)
			if err != nil {
				return err
			}
			deadline, err := o.deadline(c.now())
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			r, err := cl.Extend(cmd.Context(), args[0], api.ExtendInput{Duration: api.Duration(d), Reason: o.reason}, newKey())
			if err != nil {
				return err
			}
			c.say("asked: request %s for %s more on grant %s", r.ID, r.Asked.Duration, args[0])
			var gs []api.Grant
			if !o.noWait {
				if r, gs, err = c.follow(cmd.Context(), cl, r, deadline); err != nil {
					return err
				}
			}
			return c.show(r, func() string { return c.requestText(r, gs) })
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.duration, "for", "30m", "how much `DURATION` more: 30m, 1h")
	f.StringVarP(&o.reason, "reason", "r", "", "why: it is shown to approvers and stands in the audit log")
	f.BoolVar(&o.noWait, "no-wait", false, "return once the request stands")
	f.StringVar(&o.timeout, "timeout", "", "`DURATION` to wait for the decision (default: until the request expires)")
	return cmd
}

func (c *cli) grantCloseCmd() *cobra.Command {
	var noWait bool
	var timeout string
	cmd := &cobra.Command{
		Use: "close ID", Short: "Shut your own grant before its time is over", Args: need(1, 1, "the id of a grant"),
		ValidArgsFunction: c.completeGrants(access.Scheduled, access.Activating, access.Active),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.runShut(cmd.Context(), args[0], noWait, timeout, (*client.Client).Close)
		},
	}
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return once the closing is asked for")
	cmd.Flags().StringVar(&timeout, "timeout", "2m", "`DURATION` to wait until it is seen to be shut")
	return cmd
}

func (c *cli) grantRevokeCmd() *cobra.Command {
	var noWait bool
	var timeout, comment string
	cmd := &cobra.Command{
		Use: "revoke ID", Short: "Shut somebody else's grant", Args: need(1, 1, "the id of a grant"),
		Example:           `curfew grant revoke g-0123456789 --comment "host is being rebuilt"`,
		ValidArgsFunction: c.completeGrants(access.Scheduled, access.Activating, access.Active),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.runShut(cmd.Context(), args[0], noWait, timeout, func(cl *client.Client, ctx context.Context, id string) (api.Grant, error) {
				return cl.Revoke(ctx, id, comment)
			})
		},
	}
	cmd.Flags().StringVarP(&comment, "comment", "m", "", "why; it stands in the audit log")
	cmd.Flags().BoolVar(&noWait, "no-wait", false, "return once the closing is asked for")
	cmd.Flags().StringVar(&timeout, "timeout", "2m", "`DURATION` to wait until it is seen to be shut")
	return cmd
}

func (c *cli) runShut(ctx context.Context, id string, noWait bool, timeout string, shut func(*client.Client, context.Context, string) (api.Grant, error)) error {
	limit, err := access.ParseDuration(timeout)
	if err != nil {
		return err
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	g, err := shut(cl, ctx, id)
	if err != nil {
		return err
	}
	if !noWait {
		if g, err = c.awaitShut(ctx, cl, g, c.now().Add(limit)); err != nil {
			return err
		}
	}
	return c.show(g, func() string { return c.grantText(g) })
}

// awaitShut waits until Azure is seen without the grant's rules. The server goes on closing, whatever ends the waiting.
func (c *cli) awaitShut(ctx context.Context, cl *client.Client, g api.Grant, deadline time.Time) (api.Grant, error) {
	w := &waiter{cli: c, ctx: ctx, deadline: deadline, what: "the closing of grant " + g.ID, see: "curfew grant show " + g.ID}
	for !g.State.Final() {
		if g.State == access.CloseFailed {
			w.note("not shut yet, and tried on without end: %s", g.LastError)
		} else {
			w.note("closing %s port %s", g.VM.Name, portOf(g.Port, g.Protocol))
		}
		if err := w.pause(); err != nil {
			return g, err
		}
		next, err := cl.Grant(ctx, g.ID)
		if err = w.settle(err); err != nil {
			return g, err
		}
		if next.ID != "" {
			g = next
		}
	}
	return g, nil
}

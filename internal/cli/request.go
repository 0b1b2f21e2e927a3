package cli

import (
	"cmp"
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
)

func (c *cli) requestCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "request", Short: "Ask for access, and follow what was asked"}
	cmd.AddCommand(c.requestCreateCmd(), c.requestListCmd(), c.requestShowCmd(), c.requestCancelCmd(), c.requestCommentCmd(), c.requestRemindCmd())
	return cmd
}

func (c *cli) requestCreateCmd() *cobra.Command {
	var o askOptions
	cmd := &cobra.Command{
		Use:   "create VM...",
		Short: "Ask for a port on a machine, and wait until it is open",
		Long: `Asks for access and waits for the decision and the opening: it ends with 0 once the effective rules let you in, with 4 when the
request is denied, with 7 when the waiting is over before. Ctrl-C leaves the request as it stands.

The time counts from the opening, not from asking. With --at in the future it waits for the decision only.`,
		Example: `curfew request create web-01 --port 22 --for 1h --reason "INC-4711 disk full"
curfew request create web-01 db-02 --for 30m --reason INC-4711 --no-wait
curfew request create web-01 --at "tomorrow 09:00" --for 2h --reason "planned change"`,
		Args:              need(1, -1, "a VM"),
		ValidArgsFunction: c.completeVMs(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.runRequestCreate(cmd.Context(), args, o)
		},
	}
	o.flags(cmd, true, true)
	return cmd
}

func (c *cli) runRequestCreate(ctx context.Context, vms []string, o askOptions) error {
	in, err := c.input(vms, o)
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
	r, err := c.ask(ctx, cl, in)
	if err != nil {
		return err
	}
	if o.noWait {
		return c.show(r, func() string { return c.requestText(r, nil) })
	}
	r, gs, err := c.follow(ctx, cl, r, deadline)
	if err != nil {
		return err
	}
	return c.show(r, func() string { return c.requestText(r, gs) })
}

func (c *cli) requestListCmd() *cobra.Command {
	var f client.RequestFilter
	var states []string
	var limit int
	cmd := &cobra.Command{
		Use:     "list",
		Short:   "List requests, newest first: yours, and those that you may decide",
		Example: "curfew request list --state pending",
		Args:    need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			for _, s := range states {
				if !contains(access.RequestStates, access.RequestState(s)) {
					return badInput("state", "state %q is none of %s", s, join(access.RequestStates))
				}
				f.States = append(f.States, access.RequestState(s))
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			rs, err := pages(limit, func(p client.Page) (api.List[api.Request], error) {
				f.Page = p
				return cl.Requests(cmd.Context(), f)
			})
			if err != nil {
				return err
			}
			return c.show(items(rs), func() string { return c.requestTable(rs) })
		},
	}
	fl := cmd.Flags()
	fl.StringSliceVar(&states, "state", nil, "only these `STATES`: "+join(access.RequestStates))
	fl.StringVar(&f.VM, "vm", "", "only requests for this `VM`")
	fl.BoolVar(&f.Mine, "mine", false, "only your own")
	fl.IntVar(&limit, "limit", 100, "at most this many")
	_ = cmd.RegisterFlagCompletionFunc("state", fixed(access.RequestStates))
	_ = cmd.RegisterFlagCompletionFunc("vm", c.completeVMs(false))
	return cmd
}

func (c *cli) requestTable(rs []api.Request) string {
	if len(rs) == 0 {
		c.say("no requests")
		return ""
	}
	t := newTable("ID", "STATE", "WHO", "WHAT", "FROM", "FOR", "ASKED", "REASON")
	for _, r := range rs {
		state := string(r.State)
		if r.State == access.Pending {
			state += ", expires in " + span(r.ExpiresAt.Sub(c.now()))
		}
		what := targets(r.Terms.Targets)
		if r.Extends != "" {
			what += " (extends " + r.Extends + ")"
		}
		if r.BreakGlass {
			state += ", break-glass"
		}
		t.row(r.ID, state, r.Requester, what, source(r.Terms.Source), r.Terms.Duration.String(), ago(r.CreatedAt, c.now()), r.Reason)
	}
	return t.String()
}

func (c *cli) requestText(r api.Request, gs []api.Grant) string {
	var f fields
	f.add("request", r.ID)
	f.add("state", string(r.State)+decidedBy(r))
	if r.State == access.Pending {
		f.add("needs", count(r.Missing, "more approval")+", "+until(r.ExpiresAt, c.now(), c.Location))
		for _, w := range r.Waiting {
			f.add("waits for", waitsFor(w))
		}
	}
	who := r.Requester
	if r.Sponsor != "" {
		who += ", a program for which " + r.Sponsor + " answers"
	}
	f.add("who", who)
	if r.BreakGlass {
		f.add("glass", glass(r))
	}
	f.add("what", c.terms(r.Terms, r.StartAt))
	if n := c.narrowed(r); n != "" {
		f.add("asked", c.terms(r.Asked, r.StartAt))
	}
	f.add("extends", r.Extends)
	f.add("reason", r.Reason)
	f.add("ticket", r.Ticket)
	f.add("rules", strings.Join(r.Rules, ", "))
	f.add("asked at", c.exact(r.CreatedAt))
	for _, v := range r.Reviews {
		s := cmp.Or(map[string]string{string(access.Approve): "approved", string(access.Deny): "denied"}[v.Decision], v.Decision) + " by " + v.Reviewer + " at " + clockTime(v.At, c.now(), c.Location)
		if v.Narrowed != nil {
			s += ", for " + c.terms(*v.Narrowed, time.Time{})
		}
		if len(v.InPlaceOf) > 0 {
			s += ", in place of " + strings.Join(v.InPlaceOf, ", ")
		}
		if v.Via != "" {
			s += ", by way of " + v.Via
		}
		if v.Comment != "" {
			s += ": " + v.Comment
		}
		f.add("review", s)
	}
	if len(r.Auto) > 0 && r.State == access.Approved && !r.BreakGlass {
		f.add("review", "approved by rule "+strings.Join(r.Auto, ", ")+" itself")
	}
	for _, m := range r.Comments {
		f.add("comment", m.By+" at "+clockTime(m.At, c.now(), c.Location)+": "+m.Text)
	}
	if r.State == access.Pending {
		f.add("digest", r.Digest)
	}
	if len(gs) == 0 {
		f.add("grants", strings.Join(r.Grants, ", "))
	}
	for _, g := range gs {
		f.add("grant", g.ID+"  "+c.grantLine(g))
		f.add("connect", strings.Join(g.Connect, "\n"))
	}
	return f.String()
}

// waitsFor says whose answer a request waits for.
func waitsFor(w api.Waiting) string {
	s := "anybody who may approve"
	if len(w.Approvers) > 0 {
		s = strings.Join(w.Approvers, ", ")
	}
	if w.Missing > 1 {
		s = count(w.Missing, "answer") + " of " + s
	}
	if w.Step != "" {
		s = w.Step + ": " + s
	}
	return s + " (rule " + w.Rule + ")"
}

// glass says that a request broke the glass, and whether somebody has looked back at it.
func glass(r api.Request) string {
	switch {
	case r.Aftermath == nil:
		return "BROKEN"
	case r.Aftermath.Open:
		return "BROKEN: opened before anybody agreed; nobody has looked back at it yet"
	}
	return "BROKEN: opened before anybody agreed; " + r.Aftermath.ClosedBy + " has looked back at it: " + r.Aftermath.Comment
}

func (c *cli) requestShowCmd() *cobra.Command {
	var wait bool
	var o askOptions
	cmd := &cobra.Command{
		Use: "show ID", Short: "Show one request, its reviews and its grants; or wait for it", Args: need(1, 1, "the id of a request"),
		ValidArgsFunction: c.completeRequests(),
		RunE: func(cmd *cobra.Command, args []string) error {
			if o.timeout != "" && !wait {
				return badInput("timeout", "--timeout belongs to --wait")
			}
			deadline, err := o.deadline(c.now())
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			r, err := cl.Request(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			var gs []api.Grant
			if wait {
				if r, gs, err = c.follow(cmd.Context(), cl, r, deadline); err != nil {
					return err
				}
			} else if c.output == "table" {
				if gs, err = c.grantsOf(cmd.Context(), cl, r); err != nil {
					return err
				}
			}
			return c.show(r, func() string { return c.requestText(r, gs) })
		},
	}
	cmd.Flags().BoolVar(&wait, "wait", false, "wait for the decision and the opening, as request create does")
	cmd.Flags().StringVar(&o.timeout, "timeout", "", "`DURATION` to wait (default: until the request expires)")
	return cmd
}

// aboutRequest runs what does one thing about a request, and shows what it is then.
func (c *cli) aboutRequest(do func(ctx context.Context, cl *client.Client, id string) (api.Request, error)) func(*cobra.Command, []string) error {
	return func(cmd *cobra.Command, args []string) error {
		cl, err := c.client()
		if err != nil {
			return err
		}
		r, err := do(cmd.Context(), cl, args[0])
		if err != nil {
			return err
		}
		return c.show(r, func() string { return c.requestText(r, nil) })
	}
}

func (c *cli) requestCancelCmd() *cobra.Command {
	return &cobra.Command{
		Use: "cancel ID", Short: "Take back your own pending request", Args: need(1, 1, "the id of a request"),
		ValidArgsFunction: c.completeRequests(access.Pending),
		RunE: c.aboutRequest(func(ctx context.Context, cl *client.Client, id string) (api.Request, error) {
			return cl.Cancel(ctx, id)
		}),
	}
}

func (c *cli) approveCmd() *cobra.Command {
	var duration, from, comment, digest string
	var ports []string
	cmd := &cobra.Command{
		Use:   "approve ID",
		Short: "Approve a request, as it stands or for less",
		Long:  "Approves somebody else's request. --for, --from and --port narrow it; nothing widens it. Nobody approves their own.",
		Example: `curfew approve r-0123456789
curfew approve r-0123456789 --for 30m --comment "half an hour is enough"`,
		Args:              need(1, 1, "the id of a request"),
		ValidArgsFunction: c.completeRequests(access.Pending),
		RunE: func(cmd *cobra.Command, args []string) error {
			in := api.ReviewInput{Comment: comment}
			if duration != "" {
				d, err := access.ParseDuration(duration)
				if err != nil {
					return err
				}
				if d < access.MinDuration {
					return badInput("duration", "%s is shorter than the least duration, %s", access.Duration(d), access.Duration(access.MinDuration))
				}
				in.Duration = api.Duration(d)
			}
			if from != "" {
				p, err := access.ParseSource(from)
				if err != nil {
					return err
				}
				in.Source = p.String()
			}
			var err error
			if in.Ports, err = parsePorts(ports); err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			if in.Digest = digest; digest == "" {
				shown, err := cl.Request(cmd.Context(), args[0])
				if code := access.CodeOf(err); code == access.CodeNotFound || code == access.CodeDenied {
					in.Digest = "not shown" // the refusal is the server's, in the words for who may not decide at all
					if _, err := cl.Approve(cmd.Context(), args[0], in); err != nil {
						return err
					}
				}
				if err != nil {
					return err
				}
				c.say("%s asks for %s: %s", shown.Requester, c.terms(shown.Terms, shown.StartAt), shown.Reason)
				if c.Terminal.In && c.Terminal.Err {
					if err := c.confirm("Approve it?"); err != nil {
						return err
					}
				}
				in.Digest = shown.Digest
			}
			r, err := cl.Approve(cmd.Context(), args[0], in)
			if err != nil {
				return err
			}
			return c.show(r, func() string { return c.requestText(r, nil) })
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&duration, "for", "", "for this `DURATION` instead: not longer than asked")
	f.StringVar(&from, "from", "", "from this `ADDRESS` or CIDR instead: inside what was asked")
	f.StringSliceVarP(&ports, "port", "p", nil, "for these `PORTS` only")
	f.StringVarP(&comment, "comment", "m", "", "words for the requester and the audit log")
	f.StringVar(&digest, "digest", "", "approve only what has this `DIGEST`, as request show told it: a request that changed since is refused")
	return cmd
}

func (c *cli) denyCmd() *cobra.Command {
	var comment string
	cmd := &cobra.Command{
		Use: "deny ID", Short: "Deny a request", Args: need(1, 1, "the id of a request"),
		Example:           `curfew deny r-0123456789 --comment "use the bastion"`,
		ValidArgsFunction: c.completeRequests(access.Pending),
		RunE: c.aboutRequest(func(ctx context.Context, cl *client.Client, id string) (api.Request, error) {
			return cl.Deny(ctx, id, comment)
		}),
	}
	cmd.Flags().StringVarP(&comment, "comment", "m", "", "words for the requester and the audit log")
	return cmd
}

package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
)

func (c *cli) requestCommentCmd() *cobra.Command {
	var comment string
	cmd := &cobra.Command{
		Use: "comment ID", Short: "Say something about a request without deciding on it", Args: need(1, 1, "the id of a request"),
		Example:           `curfew request comment r-0123456789 --comment "which disk?"`,
		ValidArgsFunction: c.completeRequests(),
		RunE: c.aboutRequest(func(ctx context.Context, cl *client.Client, id string) (api.Request, error) {
			return cl.Comment(ctx, id, comment)
		}),
	}
	cmd.Flags().StringVarP(&comment, "comment", "m", "", "the words")
	return cmd
}

func (c *cli) requestRemindCmd() *cobra.Command {
	return &cobra.Command{
		Use: "remind ID", Short: "Have those for whom a request waits told again", Args: need(1, 1, "the id of a request"),
		Long:              "Tells the approvers for whom a request waits once more, over the channels that the policy names. At most every five minutes.",
		ValidArgsFunction: c.completeRequests(access.Pending),
		RunE: c.aboutRequest(func(ctx context.Context, cl *client.Client, id string) (api.Request, error) {
			return cl.Remind(ctx, id)
		}),
	}
}

func (c *cli) breakGlassCmd() *cobra.Command {
	var o askOptions
	cmd := &cobra.Command{
		Use:   "break-glass VM...",
		Short: "Open before anybody agrees, in an emergency, for those whom the policy lists",
		Long: `Opens at once, without approval, for those whom a rule of the policy lists for it, and for the short time that it allows. Everybody who
was not asked is told, it has entries of its own in the audit log, and it is marked wherever it is shown. Somebody else looks back
at it afterwards: curfew break-glass list shows what waits for that.

A VM that is called like a subcommand is named as group/name.`,
		Example: `curfew break-glass db-01 --for 30m --reason "INC-4711 orders are down, nobody answers"
curfew break-glass list
curfew break-glass review r-0123456789 --comment "needed; the on-call list was wrong"`,
		Args:              need(1, -1, "a VM"),
		ValidArgsFunction: c.completeVMs(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := c.input(args, o)
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
			r, err := cl.BreakGlass(cmd.Context(), in, newKey())
			if err != nil {
				return err
			}
			c.say("glass broken: request %s for %s; everybody who was not asked is told", r.ID, c.terms(r.Terms, r.StartAt))
			if o.noWait {
				return c.show(r, func() string { return c.requestText(r, nil) })
			}
			r, gs, err := c.follow(cmd.Context(), cl, r, deadline)
			if err != nil {
				return err
			}
			return c.show(r, func() string { return c.requestText(r, gs) })
		},
	}
	o.flags(cmd, true, true)
	_ = cmd.Flags().MarkHidden("at")
	cmd.AddCommand(c.breakGlassListCmd(), c.breakGlassReviewCmd())
	return cmd
}

func (c *cli) breakGlassListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List accesses behind broken glass at which nobody has looked back yet", Args: need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			l, err := cl.Aftermath(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(l, func() string {
				if len(l.Items) == 0 {
					c.say("no broken glass waits for a look back")
					return ""
				}
				t := newTable("ID", "WHO", "WHAT", "FROM", "FOR", "WHEN", "REASON")
				for _, r := range l.Items {
					t.row(r.ID, r.Requester, targets(r.Terms.Targets), source(r.Terms.Source), r.Terms.Duration.String(), ago(r.CreatedAt, c.now()), r.Reason)
				}
				return t.String()
			})
		},
	}
}

func (c *cli) breakGlassReviewCmd() *cobra.Command {
	var comment string
	cmd := &cobra.Command{
		Use: "review ID", Short: "Close the look back at an access behind broken glass", Args: need(1, 1, "the id of a request"),
		Long:    "Says what was found, and closes the look back. Whoever broke the glass cannot.",
		Example: `curfew break-glass review r-0123456789 --comment "needed; the on-call list was wrong"`,
		RunE: c.aboutRequest(func(ctx context.Context, cl *client.Client, id string) (api.Request, error) {
			return cl.CloseAftermath(ctx, id, comment)
		}),
	}
	cmd.Flags().StringVarP(&comment, "comment", "m", "", "whether it was needed, and what follows from it")
	return cmd
}

func (c *cli) delegationCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "delegation", Short: "Have another approver answer in your place"}
	var ends, reason string
	create := &cobra.Command{
		Use:   "create PERSON",
		Short: "Have another approver answer in your place until an instant",
		Long: `Lends your place in the steps of the policy, not your role: the other one must be an approver too, decides on nothing that you or they
asked for, and the record shows in whose place they answered.`,
		Example: `curfew delegation create bob --until 5d --reason "on leave"`,
		Args:    need(1, 1, "a person"),
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := c.endAt(ends)
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			d, err := cl.Delegate(cmd.Context(), api.DelegationInput{To: args[0], Until: at, Reason: reason})
			if err != nil {
				return err
			}
			return c.show(d, func() string {
				var f fields
				f.add("delegation", d.ID)
				f.add("from", d.From)
				f.add("to", d.To)
				f.add("until", c.exact(d.Until))
				f.add("reason", d.Reason)
				return f.String()
			})
		},
	}
	create.Flags().StringVar(&ends, "until", "", "`TIME` or DURATION of its end: 5d, \"2026-12-01 18:00\"")
	create.Flags().StringVarP(&reason, "reason", "r", "", "why")
	list := &cobra.Command{
		Use: "list", Short: "List who answers in whose place", Args: need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			l, err := cl.Delegations(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(l, func() string {
				if len(l.Items) == 0 {
					c.say("nobody answers in another's place")
					return ""
				}
				t := newTable("ID", "FROM", "TO", "UNTIL", "REASON")
				for _, d := range l.Items {
					t.row(d.ID, d.From, d.To, until(d.Until, c.now(), c.Location), d.Reason)
				}
				return t.String()
			})
		},
	}
	end := &cobra.Command{
		Use: "end ID", Short: "End a delegation", Args: need(1, 1, "the id of a delegation"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			if err := cl.EndDelegation(cmd.Context(), args[0]); err != nil {
				return err
			}
			c.say("ended: %s", args[0])
			return nil
		},
	}
	cmd.AddCommand(create, list, end)
	return cmd
}

// endAt reads an end: an instant, or how long from now.
func (c *cli) endAt(s string) (time.Time, error) {
	if strings.TrimSpace(s) == "" {
		return time.Time{}, badInput("until", "no end was given").WithHint("say until when, like --until 5d or --until \"2026-12-01 18:00\"")
	}
	if d, err := access.ParseDuration(s); err == nil {
		return c.now().Add(d), nil
	}
	return parseAt(s, c.now(), c.Location)
}

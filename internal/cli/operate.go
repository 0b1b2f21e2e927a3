package cli

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
)

func (c *cli) reconcileCmd() *cobra.Command {
	var resume bool
	var comment string
	cmd := &cobra.Command{
		Use: "reconcile", Short: "Compare what stands in Azure with what should, and repair it now",
		Long: `The server does this by itself; here it is done at once, and reported. With --resume an admin ends a hold on openings, as it stands
after the database was restored from a backup or the clock went back: look at grant list and audit list first.`,
		Args: need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			if comment != "" && !resume {
				return badInput("comment", "--comment belongs to --resume")
			}
			if resume {
				return c.runResume(cmd.Context(), cl, comment)
			}
			r, err := cl.Reconcile(cmd.Context())
			if err != nil {
				return err
			}
			if err := c.show(r, func() string { return reportText(r) }); err != nil {
				return err
			}
			if st, serr := cl.Status(cmd.Context()); serr == nil && st.Hold != "" {
				c.say("%s", c.shownCommand("openings are on hold: "+st.Hold+"; look at grant list and audit list, then end it with: curfew reconcile --resume"))
			}
			if n := len(r.Failed) + len(r.Unread); n > 0 {
				return access.Errorf(access.CodeUnavailable, "%s could not be read or put right", count(n, "place")).
					WithHint("it is tried again every 30 s; the reasons stand above")
			}
			return nil
		},
	}
	cmd.Flags().BoolVar(&resume, "resume", false, "end the hold on openings")
	cmd.Flags().StringVarP(&comment, "comment", "m", "", "what was looked at; with --resume, it stands in the audit log")
	return cmd
}

func (c *cli) runResume(ctx context.Context, cl *client.Client, comment string) error {
	st, err := cl.Status(ctx)
	if err != nil {
		return err
	}
	if st.Hold != "" {
		c.say("openings are on hold: %s", st.Hold)
		if err := c.confirm("let openings go on?"); err != nil {
			return err
		}
	}
	if st, err = cl.Resume(ctx, comment); err != nil {
		return err
	}
	return c.show(st, func() string {
		if st.Hold != "" {
			return "on hold: " + safe(st.Hold) + "\n"
		}
		return "openings go on\n"
	})
}

func reportText(r api.SweepReport) string {
	var f fields
	f.add("read", count(r.Places, "place"))
	f.add("open", count(r.Live, "grant"))
	f.add("closed", lines(r.Closed))
	f.add("repaired", lines(r.Repaired))
	f.add("failed", strings.Join(r.Failed, "\n"))
	f.add("not read", strings.Join(r.Unread, "\n"))
	return f.String()
}

func lines(s []string) string {
	if len(s) == 0 {
		return "nothing"
	}
	return strings.Join(s, "\n")
}

// SweepOptions say where to look for rules that are past their end.
type SweepOptions struct {
	Config        string   // the server's configuration file, for the cloud and the credential; "" for the default credential
	Installation  string   // whose rules; "" is the one that the configuration names
	Subscriptions []string // ids; none is all that the credential sees
	DryRun        bool
}

// SweepResult is what a sweep without a database found and did.
type SweepResult struct {
	DryRun  bool        `json:"dry_run"`
	Places  int         `json:"places"`  // NSGs that hold rules of Curfew's
	Removed []SweptRule `json:"removed"` // in a dry run: would be
	Kept    []SweptRule `json:"kept"`    // ours and not past their end
	Failed  []string    `json:"failed"`
}

// SweptRule is a rule of Curfew's.
type SweptRule struct {
	NSG  string    `json:"nsg"`
	Rule string    `json:"rule"`
	Ends time.Time `json:"ends,omitzero"`
}

func (c *cli) sweepCmd() *cobra.Command {
	if c.Local.Sweep == nil {
		return nil
	}
	var o SweepOptions
	cmd := &cobra.Command{
		Use: "sweep", Short: "Remove rules of ours that are past their end; needs no server and no database",
		Long: `Looks through Azure for openings that an installation of Curfew wrote and that are past their end, and removes them. A rule's own name
carries its installation, grant and end, so that this works when the server and its database are gone. Standing denies stay.
It signs in to Azure as the configuration says, or else with the machine's own credential.`,
		Example: `curfew sweep --config curfew.yaml --dry-run
curfew sweep --installation prod1 --subscription 00000000-0000-0000-0000-000000000000`,
		Args: need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Installation == "" && o.Config == "" {
				return badInput("installation", "sweep needs to know whose rules to remove").WithHint("name it with --installation, or the server's configuration with --config")
			}
			r, err := c.Local.Sweep(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := c.show(r, func() string { return c.sweepText(r) }); err != nil {
				return err
			}
			if len(r.Failed) > 0 {
				return access.Errorf(access.CodeUnavailable, "%s", strings.Join(r.Failed, "; ")).WithHint("run it again: what is gone already is no error")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Config, "config", "", "the server's configuration `FILE`")
	f.StringVar(&o.Installation, "installation", "", "`NAME` of the installation whose rules are removed (default: the configuration's)")
	f.StringSliceVar(&o.Subscriptions, "subscription", nil, "only in these `SUBSCRIPTIONS` (default: all that the credential sees)")
	f.BoolVar(&o.DryRun, "dry-run", false, "only show what would be removed")
	return cmd
}

func (c *cli) sweepText(r SweepResult) string {
	verb := "removed"
	if r.DryRun {
		verb = "would remove"
	}
	var b strings.Builder
	fmt.Fprintf(&b, "rules of ours stand in %s: %s %s, kept %s\n", count(r.Places, "NSG"), verb, count(len(r.Removed), "opening"), count(len(r.Kept), "opening"))
	t := newTable("", "NSG", "RULE", "END")
	for _, s := range r.Removed {
		t.row(verb, shortID(s.NSG), s.Rule, until(s.Ends, c.now(), c.Location))
	}
	for _, s := range r.Kept {
		t.row("kept", shortID(s.NSG), s.Rule, until(s.Ends, c.now(), c.Location))
	}
	if len(t.rows) > 0 {
		b.WriteString(t.String())
	}
	return b.String()
}

func (c *cli) auditCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "What happened, and the proof that nobody edited the record"}
	cmd.AddCommand(c.auditListCmd(), c.auditExportCmd(), c.auditVerifyCmd(), c.auditKeygenCmd())
	return cmd
}

func (c *cli) auditListCmd() *cobra.Command {
	var f auditFilter
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List entries of the audit log, newest first", Args: need(0, 0, "no arguments"),
		Example: "curfew audit list --vm web-01 --since 1d\ncurfew audit list --actor requester --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			q, err := f.read(c)
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			es, err := pages(limit, func(p client.Page) (api.List[api.AuditEntry], error) {
				q.Page = p
				return cl.Audit(cmd.Context(), q)
			})
			if err != nil {
				return err
			}
			return c.show(items(es), func() string { return c.auditTable(es) })
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	f.flags(c, cmd)
	fl.IntVar(&limit, "limit", 50, "at most this many; 0 is all")
	return cmd
}

// auditFilter is what selects entries on the command line.
type auditFilter struct {
	client.AuditFilter
	since, until string
}

func (f *auditFilter) flags(c *cli, cmd *cobra.Command) {
	fl := cmd.Flags()
	fl.StringVar(&f.Actor, "actor", "", "only what this `PERSON` did; curfew is the server itself")
	fl.StringVar(&f.Action, "action", "", "only this `ACTION`, for example request.approve")
	fl.StringVar(&f.Object, "object", "", "only about this request, grant or resource, by `ID`")
	fl.StringVar(&f.VM, "vm", "", "only about this `VM`, by name")
	fl.StringVar(&f.since, "since", "", "from this `TIME` on: 1d (ago), 09:00, RFC 3339")
	fl.StringVar(&f.until, "until", "", "up to this `TIME`")
	_ = cmd.RegisterFlagCompletionFunc("vm", c.completeVMs(false))
}

func (f *auditFilter) read(c *cli) (client.AuditFilter, error) {
	out := f.AuditFilter
	var err error
	if out.Since, err = c.moment("since", f.since); err != nil {
		return out, err
	}
	out.Until, err = c.moment("until", f.until)
	return out, err
}

// moment reads a point in the past: a duration ago, a clock time of today or a day, or RFC 3339.
func (c *cli) moment(field, s string) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if d, err := access.ParseDuration(s); err == nil {
		return c.now().Add(-d), nil
	}
	t, err := parseAt(s, time.Time{}, c.Location)
	if strings.Count(s, ":") == 1 && len(strings.TrimSpace(s)) == 5 {
		t, err = parseAt("today "+strings.TrimSpace(s), c.now(), c.Location)
	}
	if err != nil {
		return t, badInput(field, "time %q is not understood", s).WithHint(`write it like 1d, 09:00, "2026-11-23 09:00" or 2026-11-23T09:00:00Z`)
	}
	return t, nil
}

func (c *cli) auditTable(es []api.AuditEntry) string {
	if len(es) == 0 {
		c.say("no entries")
		return ""
	}
	t := newTable("#", "WHEN", "WHO", "ACTION", "OUTCOME", "VM", "WHAT")
	for _, e := range es {
		what := e.Message
		if e.Late {
			what += " (recorded later)"
		}
		t.row(fmt.Sprint(e.Index), e.At.In(c.Location).Format("2006-01-02 15:04:05 ")+zoneName(e.At.In(c.Location)), e.Actor, e.Action, e.Outcome, e.VM, what)
	}
	return t.String()
}

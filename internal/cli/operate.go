package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
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
	cmd.AddCommand(c.auditListCmd(), c.auditVerifyCmd())
	return cmd
}

func (c *cli) auditListCmd() *cobra.Command {
	var f client.AuditFilter
	var since, until string
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List entries of the audit log, newest first", Args: need(0, 0, "no arguments"),
		Example: "curfew audit list --vm web-01 --since 1d\ncurfew audit list --actor requester --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			var err error
			if f.Since, err = c.moment("since", since); err != nil {
				return err
			}
			if f.Until, err = c.moment("until", until); err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			es, err := pages(limit, func(p client.Page) (api.List[api.AuditEntry], error) {
				f.Page = p
				return cl.Audit(cmd.Context(), f)
			})
			if err != nil {
				return err
			}
			return c.show(items(es), func() string { return c.auditTable(es) })
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringVar(&f.Actor, "actor", "", "only what this `PERSON` did; curfew is the server itself")
	fl.StringVar(&f.Action, "action", "", "only this `ACTION`, for example request.approve")
	fl.StringVar(&f.Object, "object", "", "only about this request, grant or resource, by `ID`")
	fl.StringVar(&f.VM, "vm", "", "only about this `VM`, by name")
	fl.StringVar(&since, "since", "", "from this `TIME` on: 1d (ago), 09:00, RFC 3339")
	fl.StringVar(&until, "until", "", "up to this `TIME`")
	fl.IntVar(&limit, "limit", 50, "at most this many; 0 is all")
	_ = cmd.RegisterFlagCompletionFunc("vm", c.completeVMs(false))
	return cmd
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

// VerifyResult says which log was verified, up to where.
type VerifyResult struct {
	Source string `json:"source"`           // the server's URL, or the database file
	Origin string `json:"origin,omitempty"` // the name of the log
	Size   int64  `json:"size"`
	Root   string `json:"root"`
	Older  int64  `json:"older_size,omitempty"` // of the checkpoint that was compared, if one was
	Text   string `json:"checkpoint"`           // to be kept, and given to --checkpoint later
}

func (c *cli) auditVerifyCmd() *cobra.Command {
	var db, older, save string
	cmd := &cobra.Command{
		Use: "verify", Short: "Recompute the log's Merkle tree from its entries and compare it with its checkpoint",
		Long: `Reads every entry, computes the tree anew and compares its root with the checkpoint. With --checkpoint it also shows that the log still
begins with all that stood in it when that checkpoint was saved: keep one somewhere else with --save, and give it here later.
With --db it reads a database file, without any server. Ends with 1 when anything does not fit.`,
		Example: `curfew audit verify --save checkpoint.txt
curfew audit verify --checkpoint checkpoint.txt
curfew audit verify --db /var/lib/curfew/curfew.db`,
		Args: need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			return c.runVerify(cmd.Context(), db, older, save)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	if c.Local.VerifyDB != nil {
		f.StringVar(&db, "db", "", "verify this database `FILE`, offline")
	}
	f.StringVar(&older, "checkpoint", "", "`FILE` with a checkpoint that was saved earlier")
	f.StringVar(&save, "save", "", "write the checkpoint to this `FILE`")
	return cmd
}

func (c *cli) runVerify(ctx context.Context, db, older, save string) error {
	var old []audit.Checkpoint
	if older != "" {
		b, err := os.ReadFile(older)
		if err != nil {
			return badInput("checkpoint", "the checkpoint cannot be read: %v", err)
		}
		cp, err := audit.ParseCheckpoint(b)
		if err != nil {
			return badInput("checkpoint", "%s: %v", older, err)
		}
		old = append(old, cp)
	}
	var v VerifyResult
	var err error
	if db != "" {
		v, err = c.Local.VerifyDB(ctx, db, old)
	} else {
		v, err = c.verifyServer(ctx, old)
	}
	if err != nil {
		return err
	}
	if save != "" {
		if err := os.WriteFile(save, []byte(v.Text), 0o644); err != nil {
			return access.Errorf(access.CodeUnavailable, "the checkpoint could not be saved: %v", err)
		}
	}
	return c.show(v, func() string {
		var f fields
		f.add("verified", count(int(v.Size), "entry")+" of "+v.Source+": nothing was changed, removed or put in between")
		if len(old) > 0 {
			f.add("since", fmt.Sprintf("the checkpoint of size %d: the log still begins with all of it", v.Older))
		}
		f.add("root", v.Root)
		f.add("saved", save)
		return f.String()
	})
}

// Verified turns what a verification saw into a result: a log that was changed is an error that names where it shows.
func Verified(source string, now audit.Checkpoint, rep audit.Report, err error) (VerifyResult, error) {
	v := VerifyResult{Source: source, Origin: rep.Origin, Size: rep.Size, Root: rep.Root.String(), Text: now.String()}
	for _, n := range rep.Against {
		v.Older = n
	}
	var t *audit.TamperError
	if errors.As(err, &t) {
		return v, access.Errorf(access.CodeInternal, "%s", t).
			WithHint("keep the database and every checkpoint as they are, and find out who wrote to the database since")
	}
	return v, err
}

// verifyServer fetches the whole log, and trusts nothing of it but what the tree confirms.
func (c *cli) verifyServer(ctx context.Context, older []audit.Checkpoint) (VerifyResult, error) {
	cl, err := c.client()
	if err != nil {
		return VerifyResult{}, err
	}
	head, err := cl.Checkpoint(ctx)
	if err != nil {
		return VerifyResult{}, err
	}
	now, err := audit.ParseCheckpoint([]byte(head.Text))
	if err != nil {
		return VerifyResult{}, access.Errorf(access.CodeInternal, "the server's checkpoint is not readable: %v", err)
	}
	rep, err := audit.Verify(ctx, remoteLog{cl, now.Size}, now, older...)
	return Verified(cl.Server(), now, rep, err)
}

// remoteLog reads a server's log up to a size: what was written after the checkpoint was made is not its matter.
type remoteLog struct {
	cl   *client.Client
	size int64
}

// Entries implements audit.Reader.
func (r remoteLog) Entries(ctx context.Context, fn func(audit.Stored) error) error {
	f := client.AuditFilter{Ascending: true, Page: client.Page{Limit: 500}}
	for n := int64(0); n < r.size; {
		l, err := r.cl.Audit(ctx, f)
		if err != nil {
			return err
		}
		for _, e := range l.Items {
			if e.Index >= r.size {
				return nil
			}
			rec, err := audit.Entry{Index: e.Index, At: e.At, Actor: e.Actor, Action: e.Action, Outcome: audit.Outcome(e.Outcome), Object: e.Object, VM: e.VM,
				Request: e.Request, Message: e.Message, Detail: e.Detail, Correlation: e.Correlation, Late: e.Late}.Record()
			if err != nil {
				return err
			}
			if err := fn(audit.Stored{Index: e.Index, Record: rec}); err != nil {
				return err
			}
			n++
		}
		if l.Next == "" || l.Next == f.Page.After {
			return nil
		}
		f.Page.After = l.Next
	}
	return nil
}

package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/audit/export"
	"github.com/curfew-jit/curfew/internal/client"
)

func (c *cli) auditExportCmd() *cobra.Command {
	var f auditFilter
	var format, out, save string
	cmd := &cobra.Command{
		Use: "export", Short: "Write the audit log for a SIEM or an archive: JSON lines, CEF, OCSF", Args: need(0, 0, "no arguments"),
		Long: `Writes entries oldest first, one a line, up to where the log stood when the command began. jsonl is the log itself: with the checkpoint
that --save writes, or an older one, audit verify --file shows later that nothing was changed. cef is ArcSight Common Event Format of version
0, cef1 of version 1, ocsf is OCSF 1.8.0; each of their events carries the entry's index and Merkle leaf hash. Needs the role auditor or admin.`,
		Example: `curfew audit export --out audit.jsonl --save checkpoint.txt
curfew audit export --format ocsf --since 1d
curfew audit export --format cef --action grant.open --vm web-01`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !slices.Contains(export.Formats, export.Format(format)) {
				return badInput("format", "there is no format %q", format).WithHint("the formats are jsonl, cef, cef1 and ocsf")
			}
			q, err := f.read(c)
			if err != nil {
				return err
			}
			return c.runExport(cmd.Context(), q, export.Format(format), out, save)
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringVar(&format, "format", string(export.JSONL), "`FORMAT`: jsonl, cef, cef1 or ocsf")
	fl.StringVar(&out, "out", "", "write to this `FILE`, whole or not at all, instead of stdout")
	fl.StringVar(&save, "save", "", "write the checkpoint up to which the export goes to this `FILE`")
	f.flags(c, cmd)
	_ = cmd.RegisterFlagCompletionFunc("format", cobra.FixedCompletions([]string{"jsonl", "cef", "cef1", "ocsf"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (c *cli) runExport(ctx context.Context, q client.AuditFilter, format export.Format, out, save string) error {
	cl, err := c.client()
	if err != nil {
		return err
	}
	head, err := cl.Checkpoint(ctx)
	if err != nil {
		return err
	}
	now, err := audit.ParseCheckpoint([]byte(head.Text))
	if err != nil {
		return access.Errorf(access.CodeInternal, "the server's checkpoint is not readable: %v", err)
	}
	o := export.Options{Version: c.Version, Origin: now.Origin}
	var n int64
	if out == "" {
		n, err = exportTo(ctx, cl, q, now.Size, c.Stdout, format, o)
	} else {
		n, err = exportFile(ctx, cl, q, now.Size, out, format, o)
	}
	if err != nil {
		return err
	}
	if save != "" {
		if err := os.WriteFile(save, []byte(head.Text), 0o644); err != nil {
			return access.Errorf(access.CodeUnavailable, "the checkpoint could not be saved: %v", err)
		}
	}
	c.say("exported %s of a log of %d", count(int(n), "entry"), now.Size)
	return nil
}

// exportFile replaces a file by the export once all of it is written.
func exportFile(ctx context.Context, cl *client.Client, q client.AuditFilter, size int64, name string, format export.Format, o export.Options) (n int64, err error) {
	failed := func(err error) error {
		return access.Errorf(access.CodeUnavailable, "the export %s could not be written: %v", name, err).WithHint("look at the rights and the space there")
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*") // of mode 0600
	if err != nil {
		return 0, failed(err)
	}
	defer os.Remove(f.Name()) // gone already where all went well
	n, err = exportTo(ctx, cl, q, size, f, format, o)
	if err != nil {
		_ = f.Close() // the first error is the one that matters
		return n, err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close() // as above
		return n, failed(err)
	}
	if err := f.Close(); err != nil {
		return n, failed(err)
	}
	if err := os.Rename(f.Name(), name); err != nil {
		return n, failed(err)
	}
	return n, nil
}

// exportTo fetches page by page and writes entry by entry. An export of everything has to be whole: a hole is an error.
func exportTo(ctx context.Context, cl *client.Client, q client.AuditFilter, size int64, w io.Writer, format export.Format, o export.Options) (int64, error) {
	all := q.Actor == "" && q.Action == "" && q.Object == "" && q.VM == "" && q.Since.IsZero() && q.Until.IsZero()
	out, err := export.New(w, format, o)
	if err != nil {
		return 0, err
	}
	next := int64(0)
	err = remoteEntries(ctx, cl, q, size, func(e audit.Entry) error {
		if e.Index < next || all && e.Index != next {
			return access.Errorf(access.CodeInternal, "the server gave entry %d where entry %d stands: the export would not be whole", e.Index, next).
				WithHint("look at the log with: curfew audit verify")
		}
		next = e.Index + 1
		return out.Write(e)
	})
	if err != nil {
		_ = out.Flush() // what was written is shown, and the error says that it is not all
		return out.Count(), err
	}
	if all && next != size {
		return out.Count(), access.Errorf(access.CodeInternal, "the server gave %d entries of %d: the export is not whole", next, size).
			WithHint("look at the log with: curfew audit verify")
	}
	if err := out.Flush(); err != nil {
		return out.Count(), fmt.Errorf("writing the export: %w", err)
	}
	return out.Count(), nil
}

// remoteEntries fetches entries oldest first, up to a size of the log, and calls fn for each.
func remoteEntries(ctx context.Context, cl *client.Client, q client.AuditFilter, size int64, fn func(audit.Entry) error) error {
	q.Ascending, q.Page = true, client.Page{Limit: 500}
	for {
		l, err := cl.Audit(ctx, q)
		if err != nil {
			return err
		}
		for _, e := range l.Items {
			if e.Index >= size {
				return nil
			}
			if err := fn(entryOf(e)); err != nil {
				return err
			}
		}
		if l.Next == "" || l.Next == q.Page.After {
			return nil
		}
		q.Page.After = l.Next
	}
}

// entryOf is an entry of the API as it stands in the log.
func entryOf(e api.AuditEntry) audit.Entry {
	return audit.Entry{Index: e.Index, At: e.At, Actor: e.Actor, Action: e.Action, Outcome: audit.Outcome(e.Outcome), Object: e.Object, VM: e.VM,
		Request: e.Request, Message: e.Message, Detail: e.Detail, Correlation: e.Correlation, Late: e.Late}
}

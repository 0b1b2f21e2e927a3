package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/internal/scan"
)

func (c *cli) scanDiffCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "diff [OLD] [NEW]",
		Short: "Show what appeared and went between two scans",
		Long: `OLD and NEW are scans that a server keeps (s-…, or latest), or files that scan --output json wrote. Without names it is the newest
scan of the server and the one before it.`,
		Args: need(0, 2, "two scans"),
	}
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		d, err := c.diff(cmd.Context(), args)
		if err != nil {
			return err
		}
		return c.show(d, func() string { return diffText(d) })
	}
	return cmd
}

func (c *cli) diff(ctx context.Context, args []string) (d scan.Difference, err error) {
	kept := func(s string) bool {
		return s == "latest" || strings.HasPrefix(s, "s-") && !strings.ContainsAny(s, "./\\")
	}
	if len(args) == 2 && !kept(args[0]) && !kept(args[1]) {
		old, err := c.reportFile(args[0])
		if err != nil {
			return d, err
		}
		now, err := c.reportFile(args[1])
		if err != nil {
			return d, err
		}
		return scan.Diff(old, now), nil
	}
	cl, err := c.client()
	if err != nil {
		return d, err
	}
	if len(args) == 1 && !kept(args[0]) || len(args) == 2 && kept(args[0]) != kept(args[1]) {
		// A file against a server's scan.
		at := func(i int) (scan.Report, error) {
			name := append(args, "latest")[i]
			if kept(name) {
				return cl.Scan(ctx, name)
			}
			return c.reportFile(name)
		}
		old, err := at(0)
		if err != nil {
			return d, err
		}
		now, err := at(1)
		if err != nil {
			return d, err
		}
		return scan.Diff(old, now), nil
	}
	switch len(args) {
	case 0:
		return cl.DiffScans(ctx, "", "latest")
	case 1:
		return cl.DiffScans(ctx, args[0], "latest")
	}
	return cl.DiffScans(ctx, args[0], args[1])
}

func (c *cli) reportFile(name string) (r scan.Report, err error) {
	read := c.ReadFile
	if read == nil {
		read = os.ReadFile
	}
	data, err := read(name)
	if err != nil {
		return r, badInput("", "the report cannot be read: %v", err).WithHint("OLD and NEW are scans of a server (curfew scan list) or files that scan --output json wrote")
	}
	dec := json.NewDecoder(bytes.NewReader(data))
	var shape struct {
		Findings *json.RawMessage `json:"findings"`
	}
	if err := json.Unmarshal(data, &shape); err != nil || shape.Findings == nil {
		return r, badInput("", "%s is no report of a scan in JSON", name).WithHint("write one with: curfew scan --output json")
	}
	if err := dec.Decode(&r); err != nil {
		return r, badInput("", "%s is no report of a scan: %v", name, err)
	}
	return r, nil
}

func diffText(d scan.Difference) string {
	if d.Empty() {
		return "Nothing changed.\n"
	}
	var b strings.Builder
	part := func(head string, fs []scan.Finding) {
		if len(fs) == 0 {
			return
		}
		fmt.Fprintf(&b, "%s (%d):\n", head, len(fs))
		for _, f := range fs {
			fmt.Fprintf(&b, "  %-8s %s  %s: %s\n", f.Severity, safe(f.Name), f.Rule, safe(f.Reason))
		}
	}
	part("Appeared", d.Appeared)
	part("Gone", d.Gone)
	if len(d.Changed) > 0 {
		fmt.Fprintf(&b, "Changed (%d):\n", len(d.Changed))
		for _, ch := range d.Changed {
			fmt.Fprintf(&b, "  %-8s %s  %s: was %s, is %s: %s\n", ch.After.Severity, safe(ch.After.Name), ch.After.Rule, verdict(ch.Before), verdict(ch.After), safe(ch.After.Reason))
		}
	}
	part("Not seen by the later scan, which is not complete", d.Doubtful)
	return b.String()
}

func verdict(f scan.Finding) string {
	s := string(f.Status) + " " + string(f.Severity)
	if f.Exposure != "" {
		s += " (" + strings.ReplaceAll(string(f.Exposure), "_", " ") + ")"
	}
	return s
}

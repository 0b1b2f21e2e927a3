package cli

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/policy"
)

func (c *cli) policyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "policy", Short: "Policies: check, try, compare, and see who may"}
	cmd.AddCommand(c.policyLintCmd(), c.policyTestCmd(), c.policyWhoCmd(), c.policyDiffCmd(), c.policyReplayCmd(), c.policyShowCmd(), c.policySchemaCmd())
	return cmd
}

// readPolicies reads files and folders as one policy. Its faults stay in it.
func readPolicies(paths []string) (policy.Document, error) {
	var docs []policy.Document
	for _, p := range paths {
		t, err := config.ReadPolicy(p)
		if err != nil {
			return policy.Document{}, err
		}
		docs = append(docs, t.Document())
	}
	if len(docs) == 1 {
		return docs[0], nil
	}
	return policy.Merge(docs...), nil
}

func loadPolicy(path string) (*policy.Set, error) {
	d, err := readPolicies([]string{path})
	if err != nil {
		return nil, err
	}
	return policy.New(d)
}

func (c *cli) policyLintCmd() *cobra.Command {
	var failOn string
	var inventory bool
	cmd := &cobra.Command{
		Use: "lint FILE…", Short: "Find what is wrong with a policy, and what cannot work", Args: need(1, -1, "a policy file or folder"),
		Long: `Finds what is wrong with a policy, and what cannot work: rules that nobody can approve or ask under, rules that another hides, automatic
approval without bounds, groups that nobody is in. Several files and folders are taken together for one policy. With --inventory, names
of machines, resource groups, subscriptions and tags are looked up in what the server knows, and found when nothing has them.`,
		Example: "curfew policy lint policy.yaml\ncurfew policy lint policy.d --inventory --fail-on warning",
		RunE: func(cmd *cobra.Command, args []string) error {
			if failOn != "error" && failOn != "warning" && failOn != "none" {
				return badInput("fail-on", "--fail-on %q is not known", failOn).WithHint("it may be error, warning or none")
			}
			d, err := readPolicies(args)
			if err != nil {
				return err
			}
			var e policy.Estate
			if inventory {
				if e.Machines, err = c.policyMachines(cmd.Context()); err != nil {
					return err
				}
			}
			found := policy.Lint(d, e)
			if err := c.show(items(found), func() string { return lintText(found) }); err != nil {
				return err
			}
			worst := 0
			for _, f := range found {
				if f.Severity == policy.Wrong || failOn == "warning" {
					worst++
				}
			}
			if len(found) == 0 {
				c.say("%s, nothing found", count(d.Count(), "rule"))
			}
			if worst > 0 && failOn != "none" {
				c.say("%s at or above %s: see above", count(worst, "finding"), failOn)
				return exitError{3}
			}
			return nil
		},
	}
	cmd.Flags().SortFlags = false
	cmd.Flags().StringVar(&failOn, "fail-on", "error", "exit with 3 when something at or above this `SEVERITY` is found: error, warning or none")
	cmd.Flags().BoolVar(&inventory, "inventory", false, "look up names of machines, groups and tags in what the server knows")
	return cmd
}

func (c *cli) policyMachines(ctx context.Context) ([]policy.Machine, error) {
	cl, err := c.client()
	if err != nil {
		return nil, err
	}
	vms, err := cl.VMs(ctx, "")
	if err != nil {
		return nil, err
	}
	out := []policy.Machine{}
	for _, v := range vms.Items {
		out = append(out, policy.Machine{Name: v.Name, Group: v.Group, Subscription: v.Subscription, Tags: v.Tags, OS: v.OS, Location: v.Location})
	}
	return out, nil
}

func lintText(found []policy.Finding) string {
	var b strings.Builder
	for _, f := range found {
		fmt.Fprintf(&b, "%s [%s]: %s\n", f.Severity, f.ID, safe(f.String()))
		if f.Hint != "" && f.ID != "fault" {
			fmt.Fprintf(&b, "  %s\n", safe(f.Hint))
		}
	}
	return b.String()
}

func (c *cli) policyTestCmd() *cobra.Command {
	var against string
	cmd := &cobra.Command{
		Use: "test FILE…", Short: "Try a policy with examples: who asks for what, and what is expected", Args: need(1, -1, "a file of examples"),
		Long: `Tries a policy with files of examples: given this person and this request, expect this, because of that rule. docs/policy.md describes
the files. Each names its policy, from its own folder; --policy names another one. Exits with 1 when an example comes out otherwise.`,
		Example: "curfew policy test examples.yaml\ncurfew policy test examples.yaml --policy new.yaml",
		RunE: func(_ *cobra.Command, args []string) error {
			var all []policy.Result
			failed := 0
			for _, file := range args {
				rs, err := runPolicyTests(file, against)
				if err != nil {
					return err
				}
				for _, r := range rs {
					if !r.OK {
						failed++
					}
				}
				all = append(all, rs...)
			}
			if err := c.show(items(all), func() string { return testText(all) }); err != nil {
				return err
			}
			if failed > 0 {
				c.say("%s of %d came out otherwise than expected: see above", count(failed, "example"), len(all))
				return exitError{1}
			}
			c.say("%s as expected", count(len(all), "example"))
			return nil
		},
	}
	cmd.Flags().StringVar(&against, "policy", "", "`FILE` or folder of the policy, in place of the one that the examples name")
	return cmd
}

func runPolicyTests(file, against string) ([]policy.Result, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, badInput("", "%s cannot be read: %v", file, errors.Unwrap(err)).WithHint("name a file of examples; docs/policy.md describes it")
	}
	tests, err := policy.ParseTests(text, file)
	if err != nil {
		return nil, err
	}
	if against == "" {
		if tests.Policy == "" {
			return nil, badInput("policy", "%s names no policy", file).WithHint("write policy: FILE at its top, or name one with --policy")
		}
		if against = tests.Policy; !filepath.IsAbs(against) {
			against = filepath.Join(filepath.Dir(file), against)
		}
	}
	set, err := loadPolicy(against)
	if err != nil {
		return nil, err
	}
	return tests.Run(set), nil
}

func testText(rs []policy.Result) string {
	var b strings.Builder
	for _, r := range rs {
		word := "ok  "
		if !r.OK {
			word = "FAIL"
		}
		fmt.Fprintf(&b, "%s  %s: %s\n", word, safe(r.Name), safe(r.Got))
		for _, w := range r.Wrong {
			fmt.Fprintf(&b, "      %s\n", safe(w))
		}
	}
	return b.String()
}

func (c *cli) policyWhoCmd() *cobra.Command {
	return &cobra.Command{
		Use: "who VM", Short: "Who can get into a machine, within what, and who must agree", Args: need(1, 1, "a VM"),
		Long: `Lists the rules of the policy in force that are about a machine: who may ask, for which ports, from where, when and for how long, who must
agree, and who may break the glass. Of those that match a request the strictest wins, and one that denies beats all.`,
		Example: "curfew policy who db-01\ncurfew policy who rg-data/db-01 --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			w, err := cl.PolicyWho(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.show(w, func() string { return whoText(w) })
		},
	}
}

func whoText(w policy.WhoReport) string {
	if len(w.Ways) == 0 {
		return "no rule is about " + safe(w.Machine.Name) + ": nobody may ask for it\n"
	}
	var b strings.Builder
	for i, way := range w.Ways {
		if i > 0 {
			b.WriteString("\n")
		}
		var f fields
		f.add("rule", way.Rule)
		if way.Unknown {
			f.add("", "whether the machine is within it is not known")
		}
		who := strings.Join(way.Requesters, ", ")
		if who == "" {
			who = "everybody with the role"
		} else if names := strings.Join(way.People, ", "); names != "" && !strings.EqualFold(names, who) {
			who += " (by name: " + names + ")"
		}
		if way.Deny {
			f.add("denies", who)
			f.add("says", way.Message)
		} else {
			f.add("may ask", who)
		}
		f.add("ports", way.Ports)
		f.add("from", strings.Join(way.Sources, ", "))
		f.add("times", strings.Join(way.Windows, "; "))
		f.add("when", way.When)
		f.add("longest", way.Limits.MaxDuration)
		if way.Limits.MaxTotal != way.Limits.MaxDuration {
			f.add("with extensions", way.Limits.MaxTotal)
		}
		f.add("extensions", way.Limits.Extensions)
		f.add("reason", way.Limits.Reason)
		f.add("ticket", way.Limits.Ticket)
		f.add("must agree", way.Needs)
		f.add("by itself", way.Auto)
		f.add("break-glass", way.BreakGlass)
		b.WriteString(f.String())
	}
	return b.String()
}

func (c *cli) policyDiffCmd() *cobra.Command {
	var against string
	cmd := &cobra.Command{
		Use: "diff OLD NEW", Short: "Say in words who gains and loses what between two policies", Args: need(1, 2, "two policies, or one with --against server"),
		Long: `Compares two policies, each a file or a folder, and says in words who gains and loses what, and what was changed. Who gains what is found by
trying everybody whom the policies name with an example of each rule, conditions taken to hold. With --against server the old policy is
the one in force.`,
		Example: "curfew policy diff policy.yaml new.yaml\ncurfew policy diff new.yaml --against server",
		RunE: func(cmd *cobra.Command, args []string) error {
			var old *policy.Set
			var err error
			switch {
			case against == "server" && len(args) == 1:
				if old, err = c.livePolicy(cmd.Context()); err != nil {
					return err
				}
			case against == "" && len(args) == 2:
				if old, err = loadPolicy(args[0]); err != nil {
					return err
				}
			default:
				return badInput("", "%s needs two policies, or one with --against server", cmd.CommandPath()).WithHint("usage: %s", useLine(cmd))
			}
			now, err := loadPolicy(args[len(args)-1])
			if err != nil {
				return err
			}
			changes := policy.Diff(old, now, c.Clock.Now())
			return c.show(items(changes), func() string {
				if len(changes) == 0 {
					c.say("they say the same")
					return ""
				}
				var b strings.Builder
				for _, ch := range changes {
					fmt.Fprintf(&b, "%-7s  %s: %s\n", ch.Effect, safe(ch.About), safe(ch.Text))
				}
				return b.String()
			})
		},
	}
	cmd.Flags().StringVar(&against, "against", "", "`server`: compare with the policy in force")
	_ = cmd.RegisterFlagCompletionFunc("against", fixed([]string{"server"}))
	return cmd
}

func (c *cli) livePolicy(ctx context.Context) (*policy.Set, error) {
	cl, err := c.client()
	if err != nil {
		return nil, err
	}
	info, err := cl.Policy(ctx)
	if err != nil {
		return nil, err
	}
	return policy.Load([]byte(info.Text), "the server's policy")
}

func (c *cli) policyReplayCmd() *cobra.Command {
	return &cobra.Command{
		Use: "replay FILE…", Short: "Decide the requests of the last 90 days again, by another policy", Args: need(1, -1, "a policy file or folder"),
		Long: `A dry run: the server decides the requests of the last 90 days again, each at the time at which it was made, by the policy of the files, and says
which would be refused, approved by themselves, or need others. Nothing is changed.`,
		Example: "curfew policy replay new.yaml",
		RunE: func(cmd *cobra.Command, args []string) error {
			d, err := readPolicies(args)
			if err != nil {
				return err
			}
			if err := d.Validate(); err != nil {
				return err
			}
			text, err := d.Print()
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			r, err := cl.ReplayPolicy(cmd.Context(), string(text))
			if err != nil {
				return err
			}
			if r.Cut {
				c.say("there were more requests than are looked at: the oldest are left out")
			}
			return c.show(r, func() string {
				c.say("%s since %s, %d of them as before", count(r.Requests, "request"), r.Since.In(c.Location).Format("2006-01-02"), r.Same)
				if len(r.Changed) == 0 {
					return ""
				}
				t := newTable("ID", "WHEN", "WHO", "WHAT", "STATE", "OUTCOME", "WHY")
				for _, x := range r.Changed {
					t.row(x.ID, x.At.In(c.Location).Format("2006-01-02 15:04"), x.Requester, x.What, x.State, strings.ReplaceAll(string(x.Outcome), "_", " "), x.Text)
				}
				return t.String()
			})
		},
	}
}

func (c *cli) policyShowCmd() *cobra.Command {
	return &cobra.Command{
		Use: "show", Short: "Show the policy that is in force", Args: need(0, 0, "no arguments"),
		Example: "curfew policy show",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			info, err := cl.Policy(cmd.Context())
			if err != nil {
				return err
			}
			if info.Refused != "" {
				c.say("the newest policy is not in force: %s", info.Refused)
			}
			return c.show(info, func() string {
				c.say("%s, digest %s", count(info.Rules, "rule"), info.Digest)
				return safeLines(info.Text)
			})
		},
	}
}

func (c *cli) policySchemaCmd() *cobra.Command {
	return &cobra.Command{
		Use: "schema", Short: "Print the JSON Schema of a policy file, for editors", Args: need(0, 0, "no arguments"),
		Long: `Prints the JSON Schema of a policy file. An editor that knows YAML checks and completes by it; a server serves the same at
/schema/policy.json.`,
		Example: "curfew policy schema > policy.schema.json",
		RunE: func(*cobra.Command, []string) error {
			_, err := c.Stdout.Write(policy.Schema())
			return err
		},
	}
}

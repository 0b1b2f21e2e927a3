package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
)

// protectOptions say what protection is to be like.
type protectOptions struct {
	ports     []string
	protocol  string
	max       string
	from      []string
	exempt    []string
	noExempt  bool
	createNSG bool
	replace   []string
}

func (o *protectOptions) flags(cmd *cobra.Command) {
	f := cmd.Flags()
	f.SortFlags = false
	f.StringSliceVarP(&o.ports, "port", "p", nil, "`PORT` or range to shut, several with commas (default 22 on Linux, 3389 on Windows)")
	f.StringVar(&o.protocol, "protocol", "tcp", "tcp or udp")
	f.StringVar(&o.max, "max", "", "longest access time, a `DURATION` (default: the policy's)")
	f.StringSliceVar(&o.from, "from", nil, "allowed sources, `CIDR`s (default: the policy's)")
	f.StringArrayVar(&o.exempt, "exempt", nil, "`NAME=CIDR` that keeps its way in, or NAME=AzureLoadBalancer; may be repeated")
	f.BoolVar(&o.noExempt, "no-exempt", false, "do not exempt Bastion subnets and probes by default")
	f.BoolVar(&o.createNSG, "create-nsg", false, "make a network security group where the machine has none")
	f.StringArrayVar(&o.replace, "replace-rule", nil, "consent to replace this rule of somebody else's, `NSG/RULE`; unprotect restores it; may be repeated")
}

func (o protectOptions) input(vms []string) (api.ProtectInput, error) {
	in := api.ProtectInput{VMs: vms, NoExempt: o.noExempt, CreateNSG: o.createNSG}
	proto, err := access.ParseProtocol(o.protocol)
	if err != nil {
		return in, err
	}
	ports, err := parsePorts(o.ports)
	if err != nil {
		return in, err
	}
	q := api.ProtectedPort{Protocol: proto}
	if o.max != "" {
		d, err := access.ParseDuration(o.max)
		if err != nil {
			return in, err
		}
		if d < access.MinDuration || d > access.AbsoluteMax {
			return in, badInput("max", "longest access time %s is not between %s and %s", access.Duration(d), access.Duration(access.MinDuration), access.Duration(access.AbsoluteMax))
		}
		q.Max = api.Duration(d)
	}
	for _, s := range o.from {
		p, err := access.ParseSource(s)
		if err != nil {
			return in, err
		}
		q.Sources = append(q.Sources, p)
	}
	if len(ports) == 0 && (q.Max > 0 || len(q.Sources) > 0 || proto != access.TCP) {
		return in, badInput("port", "--max, --from and --protocol belong to ports, and no port was named").WithHint("add --port, for example --port 22")
	}
	for _, p := range ports {
		each := q
		each.Port = p
		in.Ports = append(in.Ports, each)
	}
	for _, s := range o.exempt {
		name, src, ok := strings.Cut(s, "=")
		if !ok || name == "" || src == "" {
			return in, badInput("exempt", "exemption %q is not NAME=CIDR", s).WithHint("write it like --exempt office=203.0.113.0/24")
		}
		if !strings.EqualFold(src, "AzureLoadBalancer") {
			p, err := access.ParseSource(src)
			if err != nil {
				return in, err
			}
			src = p.String()
		}
		in.Exemptions = append(in.Exemptions, api.Exemption{Name: name, Source: src})
	}
	for _, s := range o.replace {
		nsg, rule, ok := strings.Cut(s, "/")
		if !ok || nsg == "" || rule == "" {
			return in, badInput("replace-rule", "rule %q is not NSG/RULE", s).WithHint("write it as the plan does, for example --replace-rule nsg-web/allow-ssh")
		}
		in.Replace = append(in.Replace, s)
	}
	return in, nil
}

func (c *cli) protectCmd() *cobra.Command {
	var o protectOptions
	cmd := &cobra.Command{
		Use:   "protect VM...",
		Short: "Shut ports of a machine, so that only a grant opens them",
		Long: `Shows which rules are written where, what stays reachable and by which rule, and who loses access; applies it once that is
confirmed, with --yes or on a terminal. It succeeds only when the effective verdict for each port is deny, exemptions aside.

With --standalone it needs no server: it works with your own Azure login (az login, or AZURE_TENANT_ID, AZURE_CLIENT_ID and
AZURE_CLIENT_SECRET) and writes rules as installation "local". A rule of somebody else's is then replaced only with --undo, too: the
file takes the original before the rule is written. Killed at any point, run it again.`,
		Example: `curfew protect web-01
curfew protect web-01 db-02 --port 22 --max 3h --from 203.0.113.0/24 --yes
curfew protect web-02 --replace-rule nsg-web/allow-ssh
curfew protect web-02 --standalone --undo web-02.undo.json --replace-rule nsg-web/allow-ssh`,
		Args: need(1, -1, "a VM"), ValidArgsFunction: c.completeVMs(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := o.input(args)
			if err != nil {
				return err
			}
			return c.runProtect(cmd.Context(), in)
		},
	}
	o.flags(cmd)
	return c.standaloneFlags(cmd, true, true)
}

func (c *cli) unprotectCmd() *cobra.Command {
	return c.standaloneFlags(&cobra.Command{
		Use:   "unprotect VM...",
		Short: "End the protection: remove our rules, put replaced ones back",
		Long: `Shows what is removed and restored, what reaches the machine then, and which live grants end; applies it once confirmed.

With --standalone it needs no server. Rules go by their names; what was replaced comes back from the undo file that protect kept it
in, given with --undo.`,
		Args: need(1, -1, "a VM"), ValidArgsFunction: c.completeVMs(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			return c.runProtect(cmd.Context(), api.ProtectInput{VMs: args, Off: true})
		},
	}, true, true)
}

// runProtect shows the plan, asks, and applies that plan and no other: the digest says which one was shown.
func (c *cli) runProtect(ctx context.Context, in api.ProtectInput) error {
	cl, notes, end, err := c.machines(ctx)
	if err != nil {
		return err
	}
	defer end()
	plan, err := cl.PlanProtection(ctx, in)
	if err != nil {
		return err
	}
	c.say("%s", strings.TrimRight(c.planText(plan, in.Off), "\n"))
	notes()
	if err := planError(plan, in.Off); err != nil {
		return err
	}
	question := "protect " + strings.Join(vmNames(plan), ", ") + "?"
	if in.Off {
		question = "end the protection of " + strings.Join(vmNames(plan), ", ") + "?"
	}
	if err := c.confirm(question); err != nil {
		return err
	}
	in.Digest = plan.Digest
	done, err := cl.Protect(ctx, in)
	if err != nil {
		return err
	}
	if err := c.show(done, func() string { return protectedText(done) }); err != nil {
		return err
	}
	return planError(done, in.Off)
}

func vmNames(p api.ProtectPlan) []string {
	var out []string
	for _, v := range p.VMs {
		out = append(out, v.VM.Name)
	}
	return out
}

// planError is what keeps a plan from being done, if something does.
func planError(p api.ProtectPlan, off bool) error {
	for _, v := range p.VMs {
		if v.Error != "" {
			e := access.Errorf(access.CodeUnprotectable, "%s: %s", v.VM.Name, v.Error)
			e.Hint = consentHint(v.Hint, v.VM.Name)
			return e
		}
	}
	if off {
		return nil
	}
	for _, t := range p.Problems {
		e := access.Errorf(access.CodeUnprotectable, "%s: %s", shortID(t.Place), t.Message)
		e.Hint = consentHint(t.Hint, strings.Join(vmNames(p), " "))
		return e
	}
	return nil
}

// consentHint makes a whole command of a hint that is only the option to add.
func consentHint(hint, vm string) string {
	if strings.HasPrefix(hint, "--") {
		return "consent to it with: curfew protect " + vm + " " + hint
	}
	return hint
}

func protectedText(p api.ProtectPlan) string {
	t := newTable("VM", "STATE", "PORTS")
	for _, v := range p.VMs {
		var ports []string
		for _, q := range v.Ports {
			ports = append(ports, portOf(q.Port, q.Protocol))
		}
		t.row(v.VM.Name, v.State, strings.Join(ports, ", "))
	}
	return t.String()
}

// planText is a plan in words: per machine what it means, then the rules.
func (c *cli) planText(p api.ProtectPlan, off bool) string {
	var b strings.Builder
	for _, v := range p.VMs {
		b.WriteString(safe(v.VM.Name) + " (" + safe(v.Group) + ")\n")
		var f fields
		for _, q := range v.Ports {
			if off {
				f.add("  ends", "port "+portOf(q.Port, q.Protocol)+" is no longer shut by Curfew")
			} else {
				f.add("  shuts", protectedPort(q))
			}
		}
		for _, e := range v.Exemptions {
			f.add("  exempt", e.Name+" ("+e.Source+") keeps its way in")
		}
		f.add("  now", exposures(v.Before))
		f.add("  then", exposures(v.After))
		if len(v.Loses) > 0 {
			f.add("  loses access", exposures(v.Loses))
		} else if !off {
			f.add("  loses access", "nobody")
		}
		if len(v.Grants) > 0 {
			f.add("  revokes", strings.Join(v.Grants, ", "))
		}
		f.add("  error", v.Error)
		b.WriteString(f.String())
	}
	b.WriteString(changesText(p.Changes))
	for _, t := range p.Problems {
		fmt.Fprintf(&b, "problem: %s: %s\n", safe(shortID(t.Place)), safe(t.Message))
	}
	return b.String()
}

var changeMarks = map[string]string{"add": "+", "remove": "-", "rewrite": "~", "set_aside": "~", "restore": "+"}

func changesText(cs []api.Change) string {
	if len(cs) == 0 {
		return "no rule changes\n"
	}
	t := newTable("", "NSG", "PRIORITY", "RULE", "SAYS", "WHY")
	for _, ch := range cs {
		kind := strings.ReplaceAll(ch.Kind, "_", " ")
		if m := changeMarks[ch.Kind]; m != "" {
			kind = m + " " + kind
		}
		prio := ""
		if ch.Priority > 0 {
			prio = fmt.Sprint(ch.Priority)
		}
		t.row(kind, shortID(ch.Place), prio, ch.Rule, ch.Summary, ch.Why)
	}
	return count(len(cs), "rule change") + "\n" + t.String()
}

func (c *cli) planCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "plan", Short: "Dry run: will I get in, and what else changes"}
	cmd.AddCommand(c.planRequestCmd(), c.planProtectCmd())
	return cmd
}

func (c *cli) planProtectCmd() *cobra.Command {
	var o protectOptions
	var off bool
	cmd := &cobra.Command{
		Use: "protect VM...", Short: "What protect would write, and what it would mean; changes nothing",
		Args: need(1, -1, "a VM"), ValidArgsFunction: c.completeVMs(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := o.input(args)
			if err != nil {
				return err
			}
			if in.Off = off; off && len(in.Ports) > 0 {
				return badInput("off", "--off ends the whole protection: it takes no --port")
			}
			cl, _, end, err := c.machines(cmd.Context())
			if err != nil {
				return err
			}
			defer end()
			p, err := cl.PlanProtection(cmd.Context(), in)
			if err != nil {
				return err
			}
			if err := c.show(p, func() string { return c.planText(p, off) }); err != nil {
				return err
			}
			return planError(p, off)
		},
	}
	o.flags(cmd)
	cmd.Flags().BoolVar(&off, "off", false, "of unprotect instead")
	return c.standaloneFlags(cmd, true, false)
}

func (c *cli) planRequestCmd() *cobra.Command {
	var o askOptions
	cmd := &cobra.Command{
		Use: "request VM...", Short: "Whether a request would be allowed, who approves, and whether you would get in",
		Long: "Changes nothing. Ends with 0 when you would get in once approved, with 6 when something would still keep you out.",
		Args: need(1, -1, "a VM"), ValidArgsFunction: c.completeVMs(true),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := c.input(args, o)
			if err != nil {
				return err
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			p, err := cl.PlanRequest(cmd.Context(), in)
			if err != nil {
				return err
			}
			if err := c.show(p, func() string { return c.requestPlanText(p, in) }); err != nil {
				return err
			}
			if !p.WillGetIn {
				return access.Errorf(access.CodeConflict, "you would not get in%s", dash(p.Why))
			}
			return nil
		},
	}
	o.flags(cmd, true, false)
	return cmd
}

func (c *cli) requestPlanText(p api.RequestPlan, in api.RequestInput) string {
	var f fields
	f.add("ask", c.terms(p.Terms, in.StartAt))
	f.add("rules", strings.Join(p.Limits.Rules, ", "))
	limit := p.Limits.MaxDuration.String() + " at a time"
	if p.Limits.MaxTotal > p.Limits.MaxDuration {
		limit += ", " + p.Limits.MaxTotal.String() + " in total"
	}
	f.add("limit", limit)
	who := ""
	if len(p.Approvers) > 0 {
		who = " of " + strings.Join(p.Approvers, ", ")
	}
	f.add("needs", count(p.Limits.Approvals, "approval")+who)
	if p.WillGetIn {
		f.add("gets in", "yes"+dash(p.Why))
	} else {
		f.add("gets in", "no"+dash(p.Why))
	}
	f.add("also", strings.Join(p.Also, "\n"))
	return f.String() + changesText(p.Changes)
}

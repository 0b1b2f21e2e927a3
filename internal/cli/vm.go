package cli

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
)

func (c *cli) vmCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "vm", Short: "Machines: what reaches them, what is protected, who is in"}
	cmd.AddCommand(c.vmListCmd(), c.vmShowCmd())
	return cmd
}

// vmStates are the states that a machine can be seen in.
var vmStates = []string{"protected", "unprotected", "exposed", "ineffective", "unprotectable", "unknown"}

func (c *cli) vmListCmd() *cobra.Command {
	var states []string
	cmd := &cobra.Command{
		Use: "list [NAME]", Short: "List machines, those that need attention first", Args: need(0, 1, "a part of a name"),
		Example: "curfew vm list\ncurfew vm list web\ncurfew vm list --state exposed --json",
		RunE: func(cmd *cobra.Command, args []string) error {
			for _, s := range states {
				if !contains(vmStates, s) {
					return badInput("state", "state %q is none of %s", s, join(vmStates))
				}
			}
			cl, _, end, err := c.machines(cmd.Context())
			if err != nil {
				return err
			}
			defer end()
			l, err := cl.VMs(cmd.Context(), strings.Join(args, ""))
			if err != nil {
				return err
			}
			vms := l.Items
			if len(states) > 0 {
				vms = slices.DeleteFunc(vms, func(v api.VM) bool { return !contains(states, v.State) })
			}
			return c.show(items(vms), func() string { return c.vmTable(vms, args) })
		},
	}
	cmd.Flags().StringSliceVar(&states, "state", nil, "only these `STATES`: "+join(vmStates))
	_ = cmd.RegisterFlagCompletionFunc("state", fixed(vmStates))
	return c.standaloneFlags(cmd, true, false)
}

func (c *cli) vmTable(vms []api.VM, query []string) string {
	if len(vms) == 0 {
		if len(query) > 0 {
			c.say("no machine matches %q", query[0])
		} else {
			c.say("no machines")
		}
		return ""
	}
	t := newTable("NAME", "GROUP", "OS", "STATE", "ADDRESS", "WHY")
	for _, v := range vms {
		t.row(v.Name, v.Group, v.OS, v.State, vmAddress(v), vmWhy(v))
	}
	return t.String()
}

// vmAddress is where people connect to, else what there is.
func vmAddress(v api.VM) string {
	if len(v.PublicIPs) > 0 {
		return addrs(v.PublicIPs)
	}
	for _, s := range v.Connect {
		if strings.Contains(s, "→") {
			return s
		}
	}
	return addrs(v.PrivateIPs)
}

func addrs(as []netip.Addr) string {
	var s []string
	for _, a := range as {
		s = append(s, a.String())
	}
	return strings.Join(s, ", ")
}

func vmWhy(v api.VM) string {
	live, glass := 0, 0
	for _, g := range v.Grants {
		if g.State.Live() {
			live++
			if g.BreakGlass {
				glass++
			}
		}
	}
	if live > 0 {
		s := "open for " + count(live, "grant")
		if glass > 0 {
			s += ", " + strconv.Itoa(glass) + " of them break-glass"
		}
		if v.Why != "" {
			s += "; " + v.Why
		}
		return s
	}
	return v.Why
}

func (c *cli) vmShowCmd() *cobra.Command {
	return c.standaloneFlags(&cobra.Command{
		Use: "show VM", Short: "Show one machine: protection, what reaches it and by which rule, who is in", Args: need(1, 1, "a VM"),
		ValidArgsFunction: c.completeVMs(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, _, end, err := c.machines(cmd.Context())
			if err != nil {
				return err
			}
			defer end()
			v, err := cl.VM(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.show(v, func() string { return c.vmText(v) })
		},
	}, true, false)
}

func (c *cli) vmText(v api.VM) string {
	var f fields
	f.add("vm", v.Name)
	f.add("state", v.State+dash(v.Why))
	f.add("group", v.Group)
	f.add("subscription", v.Subscription)
	f.add("location", v.Location)
	f.add("os", v.OS)
	f.add("public", addrs(v.PublicIPs))
	f.add("private", addrs(v.PrivateIPs))
	f.add("connect", strings.Join(v.Connect, "\n"))
	f.add("nsgs", strings.Join(short(v.NSGs), "\n"))
	if p := v.Protection; p != nil {
		f.add("protection", string(p.State)+dash(p.Why))
		for _, q := range p.Ports {
			f.add("", protectedPort(q))
		}
		for _, e := range p.Exemptions {
			f.add("exempt", e.Name+" ("+e.Source+")")
		}
		for _, r := range p.Replaced {
			f.add("set aside", shortID(r.NSG)+"/"+r.Rule+", by "+r.By)
		}
		f.add("checked", ago(p.CheckedAt, c.now()))
	}
	f.add("reached by", exposures(v.Exposures))
	for _, g := range v.Grants {
		f.add("grant", g.ID+"  "+g.Requester+"  "+c.grantLine(g))
	}
	if !v.ReadAt.IsZero() {
		f.add("azure read", ago(v.ReadAt, c.now()))
	}
	f.add("id", v.ID)
	return f.String()
}

func dash(why string) string {
	if why == "" {
		return ""
	}
	return ": " + why
}

func protectedPort(q api.ProtectedPort) string {
	s := "port " + portOf(q.Port, q.Protocol) + " opens by grant"
	if q.Max > 0 {
		s += ", for " + q.Max.String() + " at most"
	}
	if len(q.Sources) > 0 {
		var from []string
		for _, p := range q.Sources {
			from = append(from, source(p))
		}
		s += ", from " + strings.Join(from, ", ")
	}
	return s
}

func exposures(es []api.Exposure) string {
	var out []string
	for _, e := range es {
		out = append(out, exposure(e))
	}
	return strings.Join(out, "\n")
}

func exposure(e api.Exposure) string {
	s := "port " + portOf(e.Port, e.Protocol) + " from " + e.From
	switch {
	case e.Unknown != "":
		return s + ": unknown, " + e.Unknown
	case e.Allowed:
		s += ": open"
	default:
		s += ": shut"
	}
	if e.Rule != "" {
		s += " by " + e.Rule
	}
	return s
}

// short gives the last part of resource ids.
func short(ids []string) []string {
	out := make([]string, len(ids))
	for i, id := range ids {
		out[i] = shortID(id)
	}
	return out
}

func shortID(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

func fixed[T ~string](list []T) cobra.CompletionFunc {
	ss := make([]string, len(list))
	for i, v := range list {
		ss[i] = string(v)
	}
	return cobra.FixedCompletions(ss, cobra.ShellCompDirectiveNoFileComp)
}

func (c *cli) versionCmd() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: need(0, 0, "no arguments"),
		RunE: func(*cobra.Command, []string) error {
			return c.show(map[string]string{"name": "curfew", "version": c.Version}, func() string { return "curfew " + c.Version + "\n" })
		},
	}
}

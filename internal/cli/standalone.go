package cli

import (
	"context"
	"regexp"
	"strings"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
)

// Machines is what commands about machines and their protection need: a server's client has it, and a run without a server.
type Machines interface {
	VMs(ctx context.Context, query string) (api.List[api.VM], error)
	VM(ctx context.Context, ref string) (api.VM, error)
	PlanProtection(ctx context.Context, in api.ProtectInput) (api.ProtectPlan, error)
	Protect(ctx context.Context, in api.ProtectInput) (api.ProtectPlan, error)
}

// Standalone is Machines without a server. Notes are what has to be said besides a plan, each once.
type Standalone interface {
	Machines
	Notes() []string
	Close()
}

// StandaloneOptions say which Azure, and as whom.
type StandaloneOptions struct {
	Config        string   // a server's configuration file, for the cloud and the credential; "" for the default credential
	Installation  string   // "": the configuration's, else local
	Subscriptions []string // none: the configuration's, else all that the login sees
	Cloud         string   // public, government or china
	Endpoint      string   // of another Azure; it signs in too
	CA            string   // file of certificates to trust besides the system's
	Undo          string
	ReadOnly      bool
}

// alone are the options of one command.
type alone struct {
	on   bool
	undo bool // the command has --undo
	StandaloneOptions
}

// standaloneFlags gives a command the choice to work without a server. writes tells whether it changes anything.
func (c *cli) standaloneFlags(cmd *cobra.Command, undo, writes bool) *cobra.Command {
	if c.Local.Standalone == nil {
		return cmd
	}
	a := &alone{undo: undo}
	a.ReadOnly = !writes
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&a.on, "standalone", false, "work from here with your own Azure login, without a server")
	if undo {
		f.StringVar(&a.Undo, "undo", "", "with --standalone: keep replaced rules in this `FILE`, and restore from it")
	}
	f.StringVar(&a.Installation, "installation", "", "with --standalone: `NAME` in the rules that are written (default: the configuration's, else local)")
	f.StringSliceVar(&a.Subscriptions, "subscription", nil, "with --standalone: only in these `SUBSCRIPTIONS` (default: all that the login sees)")
	f.StringVar(&a.Config, "config", "", "with --standalone: a server's configuration `FILE`, for cloud and credential (default: az login, AZURE_…)")
	f.StringVar(&a.Cloud, "azure-cloud", "", "with --standalone: public, government or china (default public)")
	f.StringVar(&a.Endpoint, "azure-endpoint", "", "with --standalone: `URL` of another Azure, for example the simulator")
	f.StringVar(&a.CA, "azure-ca", "", "with --standalone: `FILE` of certificates to trust besides the system's")
	_ = cmd.RegisterFlagCompletionFunc("azure-cloud", fixed([]string{"public", "government", "china"}))
	run := cmd.RunE
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if !a.on {
			for _, name := range []string{"undo", "installation", "subscription", "config", "azure-cloud", "azure-endpoint", "azure-ca"} {
				if cmd.Flags().Changed(name) {
					return badInput(name, "--%s belongs to --standalone", name).WithHint("a server has all that in its own configuration; without one, add --standalone")
				}
			}
			return run(cmd, args)
		}
		for _, name := range []string{"server", "token-file", "as", "ca"} {
			if cmd.Flags().Changed(name) {
				return badInput(name, "--%s names a server or who asks it, and --standalone works without one", name).WithHint("leave one of the two out")
			}
		}
		if a.Endpoint != "" && (a.Cloud != "" || a.Config != "") || a.Config != "" && (a.Cloud != "" || a.CA != "") {
			return badInput("azure-endpoint", "--config, --azure-cloud and --azure-endpoint each say which Azure it is").WithHint("give one of them")
		}
		if r := cmd.Flags().Lookup("replace-rule"); r != nil && r.Changed && a.Undo == "" && writes { // P3
			return badInput("undo", "a rule of somebody else's is replaced only where its original is kept, and no undo file was named").
				WithHint("name one with --undo FILE: it is written before the rule is, and unprotect restores from it")
		}
		c.alone = a
		return run(cmd, args)
	}
	return cmd
}

// machines returns whom to ask about machines: the server or, with --standalone, a broker in this process. end says what is left to say,
// and gives back what the run held.
func (c *cli) machines(ctx context.Context) (m Machines, notes, end func(), err error) {
	if c.alone == nil {
		cl, err := c.client()
		return cl, func() {}, func() {}, err
	}
	s, err := c.Local.Standalone(ctx, c.alone.StandaloneOptions)
	if err != nil {
		return nil, func() {}, func() {}, err
	}
	notes = func() {
		for _, n := range s.Notes() {
			c.say("note: %s", n)
		}
	}
	return s, notes, func() { notes(); s.Close() }, nil
}

var protectionCommand = regexp.MustCompile(`(?m)\bcurfew (?:protect|unprotect|vm show|vm list)\b[^\n]*$`)

// whole makes whole commands of those in a hint: with --standalone and what goes with it, as this one was given them.
func (a *alone) whole(hint string) string {
	if a == nil {
		return hint
	}
	return protectionCommand.ReplaceAllStringFunc(hint, func(s string) string {
		if strings.Contains(s, " --standalone") {
			return s
		}
		s += " --standalone"
		add := func(flag, value string) {
			if value != "" {
				s += " --" + flag + " " + value
			}
		}
		undo := a.Undo
		if undo == "" && strings.Contains(s, "--replace-rule") {
			undo = "FILE"
		}
		if strings.HasPrefix(s, "curfew protect") || strings.HasPrefix(s, "curfew unprotect") {
			add("undo", undo)
		}
		add("installation", a.Installation)
		add("subscription", strings.Join(a.Subscriptions, ","))
		add("config", a.Config)
		add("azure-cloud", a.Cloud)
		add("azure-endpoint", a.Endpoint)
		add("azure-ca", a.CA)
		return s
	})
}

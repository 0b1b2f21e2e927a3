// Package cli is the command line: options, words and exit codes. It decides nothing: what may be done, and what is done, is the
// server's; every command here talks to it through internal/client. Streams, environment, clock and the running of programs are given
// to Main, so that a test is in full control and nothing is global.
//
// Rules of this package: data goes to stdout and talk to stderr; what comes from a server or from Azure passes safe before a terminal
// sees it; a command that changes rules shows its plan first; no command waits without saying for what.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/client"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/credential"
)

// DefaultServer is where the demo listens: what is talked to when nothing else is named.
const DefaultServer = "http://127.0.0.1:7447"

// Env is everything outside the program that a command may touch.
type Env struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	// Terminal tells whether the streams are terminals: questions are asked only when In and Err are.
	Terminal struct{ In, Out, Err bool }
	Getenv   func(string) string
	ReadFile func(string) ([]byte, error)
	// WriteFile replaces a file by what a function writes, whole or not at all; nil: the file is written where it is.
	WriteFile func(name string, write func(io.Writer) error) error
	// Width is the number of cells of the terminal that Stdout is, 0 for none.
	Width    int
	Clock    clock.Clock
	Location *time.Location
	// Find returns the path of a program, Run runs one on the same streams and returns its exit code.
	Find func(program string) (string, error)
	Run  func(ctx context.Context, argv []string) (int, error)
	// Open starts a program that shows something to the user by itself, such as a browser, and returns once it runs.
	Open func(argv []string) error
	// System is the operating system, as GOOS names it: "" is one like Linux.
	System string
	// Sessions are those of curfew login; nil: there is no place for them.
	Sessions *credential.Store
	// Reach tries a TCP connection to an address and returns why it failed.
	Reach func(ctx context.Context, address string) error
	// Program is how the user started us, for commands that are shown: "curfew" or "go run ./cmd/curfew".
	Program string
	Version string
	// Local are the commands that run here and not through a server. A nil one does not stand in help.
	Local Local
}

// Local are the parts that need more than a client; cmd wires them.
type Local struct {
	Demo       func(context.Context, DemoOptions) error
	Sim        func(context.Context, SimOptions) error
	Serve      func(context.Context, ServeOptions) error
	Sweep      func(context.Context, SweepOptions) (SweepResult, error)
	Standalone func(context.Context, StandaloneOptions) (Standalone, error)
	// Fix opens what puts findings right.
	Fix func(context.Context, FixSource) (Fixer, error)
	// Collect reads what a scan looks at.
	Collect func(context.Context, ScanSource) (Collected, error)
	// AzureCheck looks at what is missing in Azure.
	AzureCheck func(context.Context, AzureCheckOptions) ([]AzureCheckItem, error)
	VerifyDB   func(ctx context.Context, database string, older []audit.Checkpoint) (VerifyResult, error)
	// Packets returns how a program connects from a source where a demo of this machine carries real packets, nil where none does.
	Packets func(ctx context.Context, server string, source netip.Prefix) (*PacketsWay, error)
}

// PacketsWay is how a program connects where real packets flow in a simulation.
type PacketsWay struct {
	Prefix []string // before the command
	SSH    []string // options of ssh
	User   string   // who can sign in
}

// exitError ends with an exit code that is not an error of ours: ssh's own.
type exitError struct{ code int }

func (e exitError) Error() string { return fmt.Sprintf("exit status %d", e.code) }

// cli is one run: what stands outside, and the global options.
type cli struct {
	Env
	output    string
	json      bool
	server    string
	tokenFile string
	as        string
	yes       bool
	ca        string
	alone     *alone          // nil: through a server
	ctx       context.Context // of the run: for what is looked up before a command has its own
	session   string          // whose session of curfew login a call was made with; "": none was

	verb  string                 // of the command that runs
	given func(flag string) bool // whether a global option stood on the command line
}

// Main runs one command line (without the program's name) and returns the exit code. It writes nothing but to the streams of env.
func Main(ctx context.Context, args []string, env Env) int {
	c := &cli{Env: env, ctx: ctx}
	root := c.root()
	root.SetArgs(args)
	root.SetIn(env.Stdin)
	root.SetOut(env.Stdout)
	root.SetErr(env.Stderr)
	err := root.ExecuteContext(ctx)
	if err == nil {
		return api.ExitDone
	}
	var exit exitError
	if errors.As(err, &exit) {
		return exit.code
	}
	if c.output == "" && wantsJSON(args) { // the options were not read to the end
		c.output = "json"
	}
	c.fail(ctx, err)
	return api.ExitOf(err)
}

func wantsJSON(args []string) bool {
	for i, a := range args {
		switch {
		case a == "--":
			return false
		case a == "--json", a == "--output=json", a == "-o=json", a == "-ojson", (a == "--output" || a == "-o") && i+1 < len(args) && args[i+1] == "json":
			return true
		}
	}
	return false
}

const (
	groupTry      = "try"
	groupAccess   = "access"
	groupMachines = "machines"
	groupOperate  = "operate"
	groupOther    = "other"
)

func (c *cli) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "curfew",
		Short: "Just-in-time access for Azure virtual machines",
		Long: `Every port that Curfew opens has a curfew. Management ports stay shut; a person asks for a port on a machine, from an
address, for a time, with a reason; somebody who may, approves; the port opens for that address alone, and is shut again at
the end of the time, whatever has crashed meanwhile.

A VM is named by name, group/name, or resource id.`,
		SilenceErrors: true, SilenceUsage: true, DisableAutoGenTag: true,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return unknownCommand(cmd, args[0])
			}
			return cmd.Help()
		},
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			c.verb = cmd.Name()
			return c.settle(cmd)
		},
	}
	root.AddGroup(&cobra.Group{ID: groupTry, Title: "Run it:"}, &cobra.Group{ID: groupAccess, Title: "Get access, give access:"},
		&cobra.Group{ID: groupMachines, Title: "Machines:"}, &cobra.Group{ID: groupOperate, Title: "Operate and verify:"},
		&cobra.Group{ID: groupOther, Title: "About the program:"})
	p := root.PersistentFlags()
	p.SortFlags = false
	c.given = p.Changed
	p.StringVarP(&c.output, "output", "o", "", "table, json or yaml (default table)")
	p.BoolVar(&c.json, "json", false, "short for --output json; an error is then a JSON object on stderr")
	p.StringVar(&c.server, "server", "", "`URL` of the server (CURFEW_SERVER; default: the demo's, "+DefaultServer+")")
	p.StringVar(&c.tokenFile, "token-file", "", "`FILE` with the bearer token (or the token itself in CURFEW_TOKEN)")
	p.StringVar(&c.ca, "ca", "", "`FILE` of certificates to trust besides the system's (CURFEW_CA)")
	p.StringVar(&c.as, "as", "", "act as this demo `ACCOUNT` (requester, approver, admin…); any other server refuses it")
	p.BoolVar(&c.yes, "yes", false, "confirm the plan that is shown, without a question")
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpTemplate(helpTemplate)
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return access.Errorf(access.CodeInvalid, "%s", err).WithHint("see: %s --help", cmd.CommandPath())
	})
	root.CompletionOptions.DisableDefaultCmd = true
	_ = root.RegisterFlagCompletionFunc("output", cobra.FixedCompletions([]string{"table", "json", "yaml"}, cobra.ShellCompDirectiveNoFileComp))
	_ = root.RegisterFlagCompletionFunc("as", cobra.FixedCompletions([]string{"requester", "requester-2", "approver", "approver-2", "admin", "auditor", "stranger"}, cobra.ShellCompDirectiveNoFileComp))

	add := func(group string, cmds ...*cobra.Command) {
		for _, cmd := range cmds {
			if cmd != nil {
				cmd.GroupID = group
				root.AddCommand(cmd)
			}
		}
	}
	add(groupTry, c.demoCmd(), c.simCmd(), c.serveCmd())
	add(groupAccess, c.loginCmd(), c.logoutCmd(), c.whoamiCmd(), c.sshCmd(), c.ensureCmd(), c.requestCmd(), c.approveCmd(), c.denyCmd(), c.delegationCmd(), c.breakGlassCmd(), c.grantCmd())
	add(groupMachines, c.vmCmd(), c.scanCmd(), c.fixCmd(), c.protectCmd(), c.unprotectCmd(), c.planCmd())
	add(groupOperate, c.reconcileCmd(), c.sweepCmd(), c.policyCmd(), c.auditCmd(), c.accountCmd(), c.sessionCmd(), c.tokenCmd(), c.azureCmd(), c.notifyCmd(), c.linkCmd())
	add(groupOther, c.completionCmd(), c.versionCmd())
	root.SetHelpCommand(helpCmd())
	root.SetHelpCommandGroupID(groupOther)
	strict(root)
	return root
}

// strict gives commands that only hold others an error for an unknown one, and every command arguments that it checks.
func strict(cmd *cobra.Command) {
	for _, sub := range cmd.Commands() {
		if sub.HasSubCommands() && sub.RunE == nil {
			sub.Args = cobra.ArbitraryArgs
			sub.RunE = func(cmd *cobra.Command, args []string) error {
				if len(args) > 0 {
					return unknownCommand(cmd, args[0])
				}
				return access.Errorf(access.CodeInvalid, "%s needs a command: %s", cmd.CommandPath(), strings.Join(names(cmd), ", ")).
					WithHint("see: %s --help", cmd.CommandPath())
			}
		}
		strict(sub)
	}
}

func names(cmd *cobra.Command) []string {
	var out []string
	for _, s := range cmd.Commands() {
		if s.IsAvailableCommand() {
			out = append(out, s.Name())
		}
	}
	return out
}

func unknownCommand(cmd *cobra.Command, name string) error {
	e := access.Errorf(access.CodeInvalid, "%s has no command %q", cmd.CommandPath(), name)
	cmd.SuggestionsMinimumDistance = 2
	if s := cmd.SuggestionsFor(name); len(s) > 0 {
		return e.WithHint("did you mean: %s %s", cmd.CommandPath(), strings.Join(s, ", "))
	}
	return e.WithHint("see: %s --help", cmd.CommandPath())
}

// outputs is the annotation of a command that writes more forms than all do.
const outputs = "outputs"

// settle reads the global options: flag, environment, default.
func (c *cli) settle(cmd *cobra.Command) error {
	forms := []string{"table", "json", "yaml"}
	for _, f := range strings.Fields(cmd.Annotations[outputs]) {
		if !slices.Contains(forms, f) {
			forms = append(forms, f)
		}
	}
	if c.json {
		if c.output != "" && c.output != "json" {
			return badInput("output", "--json and --output %s contradict each other", c.output)
		}
		c.output = "json"
	}
	if c.output == "" {
		c.output = "table"
	} else if !slices.Contains(forms, c.output) {
		o := c.output
		c.output = ""
		return badInput("output", "output %q is none of %s", o, strings.Join(forms, ", "))
	}
	if c.server == "" {
		c.server = c.Getenv("CURFEW_SERVER")
	}
	if c.ca == "" {
		c.ca = c.Getenv("CURFEW_CA")
	}
	return nil
}

func badInput(field, format string, args ...any) *access.Error {
	e := access.Errorf(access.CodeInvalid, format, args...)
	e.Field = field
	return e
}

// need refuses the wrong number of arguments in words, and shows the form.
func need(low, high int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) < low:
			return badInput("", "%s needs %s", cmd.CommandPath(), what).WithHint("usage: %s", useLine(cmd))
		case high >= 0 && len(args) > high:
			if high == 0 {
				return badInput("", "%s takes no arguments, got %q", cmd.CommandPath(), args[0]).WithHint("usage: %s", useLine(cmd))
			}
			return badInput("", "%s takes %s, got %q as well", cmd.CommandPath(), what, args[high]).WithHint("usage: %s", useLine(cmd))
		}
		for _, a := range args {
			if strings.TrimSpace(a) == "" {
				return badInput("", "%s needs %s, got an empty argument", cmd.CommandPath(), what).WithHint("usage: %s", useLine(cmd))
			}
		}
		return nil
	}
}

// say writes one line of talk.
func (c *cli) say(format string, args ...any) {
	fmt.Fprintln(c.Stderr, safeLines(fmt.Sprintf(format, args...)))
}

func (c *cli) now() time.Time { return c.Clock.Now() }

// client makes the client for the server that is named. It does not call it.
func (c *cli) serverURL() string {
	if c.server == "" {
		return DefaultServer
	}
	return c.server
}

func (c *cli) client() (*client.Client, error) {
	o := client.Options{Server: c.serverURL(), As: c.as, CA: c.ca, Clock: c.Clock, UserAgent: "curfew/" + c.Version}
	if c.as == "" { // two identities at once would leave it to the server whom to believe
		var err error
		if o.Token, err = c.token(); err != nil {
			return nil, err
		}
		if o.Token == "" && c.Sessions != nil {
			s, err := c.Sessions.Get(c.ctx, o.Server)
			if err != nil {
				return nil, err
			}
			o.Token, c.session = s.Token, s.Name
		}
	}
	return client.New(o)
}

// anonymous makes a client that is nobody, or whoever has the token: not who the options and the environment say.
func (c *cli) anonymous(token string) (*client.Client, error) {
	return client.New(client.Options{Server: c.serverURL(), Token: token, Private: true, CA: c.ca, Clock: c.Clock, UserAgent: "curfew/" + c.Version})
}

// token returns the bearer token: of the file that a flag names, else of the environment; "" if there is none.
func (c *cli) token() (string, error) {
	if c.tokenFile == "" {
		return strings.TrimSpace(c.Getenv("CURFEW_TOKEN")), nil
	}
	read := c.ReadFile
	if read == nil {
		read = os.ReadFile
	}
	b, err := read(c.tokenFile)
	if err != nil {
		return "", badInput("token-file", "the token file cannot be read: %v", err)
	}
	t := strings.TrimSpace(string(b))
	if t == "" || strings.ContainsAny(t, " \t\r\n") {
		return "", badInput("token-file", "%s does not hold one token", c.tokenFile)
	}
	return t, nil
}

package cli

import (
	"github.com/spf13/cobra"
)

// DemoOptions say where the demo listens and keeps its state.
type DemoOptions struct {
	Listen, AzureListen string
	IssuerListen        string // "": beside Listen
	SlackListen         string // likewise
	Dir                 string // "": a temporary one, removed at the end
	Packets             bool   // machines are network namespaces
	JSON                bool   // one line when ready, instead of words
	Program             string // how commands are shown
}

// SimOptions are those of the simulator alone.
type SimOptions struct {
	Listen                                  string
	Dir                                     string // "": nothing is kept
	Estate                                  string // file to load at first; "": the demo's
	VMs                                     int    // above 0: an estate of so many machines
	Subscriptions, NSGs, Rules, PublicEvery int    // of that estate; 0: as docs/simulator.md says
	Seed                                    uint64
	Faults                                  string // file
	Proxy                                   string // address
	Identity                                string // address
	Packets                                 bool   // machines are network namespaces
	JSON                                    bool
	Program                                 string
}

const packetsUsage = "carry real packets: machines are network namespaces (Linux, root; needs nft, ip, ss, sshd, ssh)"

// ServeOptions are those of the server.
type ServeOptions struct {
	Config string
	Listen string // overrides the configuration
}

func (c *cli) demoCmd() *cobra.Command {
	if c.Local.Demo == nil {
		return nil
	}
	o := DemoOptions{Program: c.Program}
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "Everything in one process, on a simulated Azure: start here",
		Long: `Starts the Azure simulator with an estate of some fifteen machines, the server and the reconciler, and says what to try. It is not for
production: anybody on this machine may act as any of its accounts. Ctrl-C ends it and leaves nothing behind.

With --dir the state stays, and a later demo on the same directory goes on where the last one ended, even if it was killed. To kill the
server while Azure lives on, run the two apart: curfew sim --dir D, and curfew serve --config D/serve.yaml.

With --packets, on Linux as root, each machine is a network namespace with a firewall made from its rules and an sshd behind it: curfew ssh
(as root) really gets in, or does not. Without it rules are judged, and nothing is behind the ports.

People sign in with curfew login, through an issuer of the demo's own that asks nobody for a password; --as does without, for scripts.

--json prints one line when it is ready: {"server","azure","issuer","slack","ca","dir","accounts":[...]}.`,
		Example: "curfew demo\ncurfew demo --dir ./demo-state --json",
		Args:    need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.JSON = c.output == "json"
			return c.Local.Demo(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Listen, "listen", "127.0.0.1:7447", "`ADDRESS` of the server, on the loopback interface; port 0 picks one")
	f.StringVar(&o.AzureListen, "azure-listen", "127.0.0.1:7448", "`ADDRESS` of the simulated Azure, on the loopback interface")
	f.StringVar(&o.IssuerListen, "issuer-listen", "", "`ADDRESS` of the issuer, on the loopback interface (default 127.0.0.1:7449, or a free port where --listen picks one)")
	f.StringVar(&o.SlackListen, "slack-listen", "", "`ADDRESS` of the stand-in for Slack, on the loopback interface (default 127.0.0.1:7450, or a free port where --listen picks one)")
	f.StringVar(&o.Dir, "dir", "", "`DIRECTORY` that keeps the state (default: a temporary one)")
	f.BoolVar(&o.Packets, "packets", false, packetsUsage)
	return cmd
}

func (c *cli) simCmd() *cobra.Command {
	if c.Local.Sim == nil {
		return nil
	}
	o := SimOptions{Program: c.Program}
	cmd := &cobra.Command{
		Use:   "sim",
		Short: "The Azure simulator alone, for a server of its own or for other Azure clients",
		Long: `Serves a simulated Azure over HTTPS on the loopback interface; GET /_sim/ on it describes faults, time and the outside hand. With --dir
its estate is kept on each change, and a configuration for a server against it stands in DIR/serve.yaml, tokens in DIR/tokens:

  curfew sim --dir D
  curfew serve --config D/serve.yaml
  curfew --token-file D/tokens/requester request create web-01 --from 203.0.113.9 --reason INC-4711

Kill the server there, and start it again: what was open stands in the simulated Azure meanwhile.

With --packets machines are network namespaces, as in the demo; CURFEW_PACKETS, set to the run's name that is shown, lets curfew ssh connect
there (as root).`,
		Args: need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.JSON = c.output == "json"
			if o.VMs < 0 || o.VMs > 0 && o.Estate != "" {
				return badInput("vms", "--vms is the number of machines of an estate that is made up, and stands without --estate")
			}
			for _, f := range []struct {
				name string
				n    int
			}{{"subscriptions", o.Subscriptions}, {"nsgs", o.NSGs}, {"rules", o.Rules}, {"public-every", o.PublicEvery}} {
				if f.n < 0 || f.n > 0 && o.VMs == 0 {
					return badInput(f.name, "--%s is a number of the estate that --vms makes up, and needs that", f.name)
				}
			}
			return c.Local.Sim(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Listen, "listen", "127.0.0.1:7448", "`ADDRESS` on the loopback interface; port 0 picks one")
	f.StringVar(&o.Dir, "dir", "", "`DIRECTORY` that keeps the estate (default: nothing is kept)")
	f.StringVar(&o.Estate, "estate", "", "`FILE` with the estate to begin with (default: the demo's)")
	f.IntVar(&o.VMs, "vms", 0, "begin with an estate of `N` machines instead, which is not kept")
	f.IntVar(&o.Subscriptions, "subscriptions", 0, "with --vms: spread over `N` subscriptions (default: one for 20,000 machines)")
	f.IntVar(&o.NSGs, "nsgs", 0, "with --vms: `N` network security groups (default: one for 200 machines)")
	f.IntVar(&o.Rules, "rules", 0, "with --vms: `N` rules in each network security group (default: 20)")
	f.IntVar(&o.PublicEvery, "public-every", 0, "with --vms: one machine in `N` has a public address (default: 4)")
	f.Uint64Var(&o.Seed, "seed", 0, "`NUMBER` that ids, etags and chances follow from")
	f.StringVar(&o.Faults, "faults", "", "`FILE` with a schedule of faults (docs/simulator.md)")
	f.StringVar(&o.Proxy, "proxy-listen", "", "`ADDRESS` of a proxy for clients that know only Azure's public hosts: HTTPS_PROXY=http://ADDRESS")
	f.StringVar(&o.Identity, "identity-listen", "", "`ADDRESS` of managed-identity endpoints over plain HTTP")
	f.BoolVar(&o.Packets, "packets", false, packetsUsage)
	return cmd
}

func (c *cli) serveCmd() *cobra.Command {
	if c.Local.Serve == nil {
		return nil
	}
	var o ServeOptions
	cmd := &cobra.Command{
		Use: "serve", Short: "The server: API, approvals, reconciler",
		Example: "curfew serve --config /etc/curfew/curfew.yaml",
		Args:    need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.Config == "" {
				o.Config = c.Getenv("CURFEW_CONFIG")
			}
			if o.Config == "" {
				return badInput("config", "serve needs a configuration file").WithHint("name it with --config or CURFEW_CONFIG")
			}
			return c.Local.Serve(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&o.Config, "config", "", "configuration `FILE` (CURFEW_CONFIG)")
	f.StringVar(&o.Listen, "listen", "", "`ADDRESS` to listen on (default: the configuration's)")
	return cmd
}

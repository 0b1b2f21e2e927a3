package cli

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
)

// leastLeft is how much time a live grant must have left to be used again.
const leastLeft = time.Minute

// wanted is what ensure and ssh need to be open.
type wanted struct {
	vm       api.VM
	ports    []api.Ports
	protocol api.Protocol
	source   netip.Prefix // invalid: not known here
}

// need spells the ask out as the server will, to compare it with what is there.
func (c *cli) wanted(ctx context.Context, cl *client.Client, in api.RequestInput) (wanted, error) {
	vm, err := cl.VM(ctx, in.VMs[0])
	if err != nil {
		return wanted{}, err
	}
	w := wanted{vm: vm, ports: in.Ports, protocol: in.Protocol}
	if len(w.ports) == 0 {
		w.ports = []api.Ports{access.Port(22)}
		if strings.EqualFold(vm.OS, "windows") {
			w.ports = []api.Ports{access.Port(3389)}
		}
	}
	if in.Source != "my-ip" {
		w.source, err = access.ParseSource(in.Source)
		return w, err
	}
	me, err := cl.Whoami(ctx)
	if err != nil {
		return w, err
	}
	if me.Address.IsValid() {
		w.source = netip.PrefixFrom(me.Address.Unmap(), me.Address.Unmap().BitLen())
	}
	return w, nil
}

// live returns grants of the caller's that together hold everything wanted open, for a while yet; none if they do not.
func (w wanted) live(gs []api.Grant, now time.Time) []api.Grant {
	var out []api.Grant
	for _, p := range w.ports {
		i := slices.IndexFunc(gs, func(g api.Grant) bool {
			return access.SameVM(g.VM.ID, w.vm.ID) && g.Port.Contains(p) && g.Protocol == w.protocol && access.PrefixWithin(w.source, g.Source) &&
				(g.State == access.Activating || g.State == access.Active || g.State == access.Scheduled && !g.NotBefore.After(now)) && g.EndReason == "" && (g.EndsAt.IsZero() || g.EndsAt.Sub(now) >= leastLeft)
		})
		if i < 0 {
			return nil
		}
		if !slices.ContainsFunc(out, func(g api.Grant) bool { return g.ID == gs[i].ID }) {
			out = append(out, gs[i])
		}
	}
	return out
}

// pending returns the caller's pending request that would open all of it, if there is one.
func (w wanted) pending(rs []api.Request) (api.Request, bool) {
	i := slices.IndexFunc(rs, func(r api.Request) bool {
		return r.State == access.Pending && r.Extends == "" && r.StartAt.IsZero() && access.PrefixWithin(w.source, r.Terms.Source) &&
			!slices.ContainsFunc(w.ports, func(p api.Ports) bool {
				return !slices.ContainsFunc(r.Terms.Targets, func(t api.Target) bool {
					return access.SameVM(t.VM.ID, w.vm.ID) && t.Protocol == w.protocol && t.Port.Contains(p)
				})
			})
	})
	if i < 0 {
		return api.Request{}, false
	}
	return rs[i], true
}

// ensure makes what is wanted open: by a live grant, a pending request, or a new one.
func (c *cli) ensure(ctx context.Context, cl *client.Client, in api.RequestInput, o askOptions) ([]api.Grant, error) {
	deadline, err := o.deadline(c.now())
	if err != nil {
		return nil, err
	}
	w, err := c.wanted(ctx, cl, in)
	if err != nil {
		return nil, err
	}
	gs, err := pages(0, func(p client.Page) (api.List[api.Grant], error) {
		return cl.Grants(ctx, client.GrantFilter{Mine: true, VM: w.vm.ID, States: []access.GrantState{access.Scheduled, access.Activating, access.Active}, Page: p})
	})
	if err != nil {
		return nil, err
	}
	if have := w.live(gs, c.now()); have != nil {
		for _, g := range have {
			c.say("using grant %s: %s", g.ID, c.grantLine(g))
		}
		return c.awaitReady(ctx, cl, have, deadline)
	}
	rs, err := pages(0, func(p client.Page) (api.List[api.Request], error) {
		return cl.Requests(ctx, client.RequestFilter{Mine: true, VM: w.vm.ID, States: []access.RequestState{access.Pending}, Page: p})
	})
	if err != nil {
		return nil, err
	}
	r, ok := w.pending(rs)
	if ok {
		c.say("asked before: request %s for %s", r.ID, c.terms(r.Terms, r.StartAt))
	} else {
		in.VMs = []string{w.vm.ID}
		if r, err = c.ask(ctx, cl, in); err != nil {
			return nil, err
		}
	}
	_, opened, err := c.follow(ctx, cl, r, deadline)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(opened, func(g api.Grant) bool { return !access.SameVM(g.VM.ID, w.vm.ID) }), nil
}

// awaitReady waits until grants that exist already are open and verified, and reads them once more, with where to connect to.
func (c *cli) awaitReady(ctx context.Context, cl *client.Client, gs []api.Grant, deadline time.Time) ([]api.Grant, error) {
	r := api.Request{ID: gs[0].Request}
	for _, g := range gs {
		r.Grants = append(r.Grants, g.ID)
	}
	w := &waiter{cli: c, ctx: ctx, deadline: deadline, what: "the opening", see: "curfew grant show " + gs[0].ID}
	for {
		now, done, err := c.opening(ctx, cl, r, w)
		if err != nil || done {
			return now, err
		}
		if err := w.pause(); err != nil {
			return nil, err
		}
	}
}

func (c *cli) ensureCmd() *cobra.Command {
	var o askOptions
	cmd := &cobra.Command{
		Use: "ensure VM", Short: "Reuse a live grant of yours, or ask for one and wait",
		Long:    "Ends with 0 when a grant of yours is open and verified, with at least 1m left. Running it twice makes one grant.",
		Example: `curfew ensure web-01 --for 1h --reason INC-4711`,
		Args:    need(1, 1, "one VM"), ValidArgsFunction: c.completeVMs(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			in, err := c.input(args, o)
			if err != nil {
				return err
			}
			if !in.StartAt.IsZero() {
				return badInput("start", "ensure opens now: it takes no --at").WithHint("ask ahead with: curfew request create %s --at ...", args[0])
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			gs, err := c.ensure(cmd.Context(), cl, in, o)
			if err != nil {
				return err
			}
			return c.show(items(gs), func() string { return c.grantTable(gs) })
		},
	}
	o.flags(cmd, true, true)
	_ = cmd.Flags().MarkHidden("no-wait")
	_ = cmd.Flags().MarkHidden("at")
	return cmd
}

func (c *cli) sshCmd() *cobra.Command {
	var o askOptions
	var user, port string
	var shut, keep bool
	cmd := &cobra.Command{
		Use:   "ssh [USER@]VM [-- SSH-ARGS...]",
		Short: "Ask, wait, verify, run ssh, and offer to close afterwards",
		Long: `Uses a live grant of yours, or asks for one and waits; then runs the system's ssh against the machine's public address or its load
balancer's port, and ends with ssh's exit code. What stands after -- goes to ssh: its options first, then a remote command.
On a terminal it offers to close the grant afterwards. In a demo without --packets nothing is behind the port: it shows the command instead.`,
		Example: `curfew ssh web-01 --for 1h --reason INC-4711
curfew ssh admin@web-01 --reason INC-4711 -- -i ~/.ssh/id_ed25519 uptime`,
		Args: func(cmd *cobra.Command, args []string) error {
			n := cmd.ArgsLenAtDash()
			if n < 0 {
				n = len(args)
			}
			if err := need(1, -1, "a VM")(cmd, args[:n]); err != nil {
				return err
			}
			if n > 1 {
				return badInput("", "%s takes one VM, got %q as well", cmd.CommandPath(), args[1]).
					WithHint("arguments for ssh stand after --: curfew ssh %s -- %s", args[0], strings.Join(args[1:n], " "))
			}
			return nil
		},
		ValidArgsFunction: c.completeVMs(false),
		RunE: func(cmd *cobra.Command, args []string) error {
			if shut && keep {
				return badInput("close", "--close and --keep contradict each other")
			}
			return c.runSSH(cmd.Context(), sshOptions{ask: o, user: user, port: port, shut: shut, keep: keep, machine: args[0], args: args[1:]})
		},
	}
	o.flags(cmd, false, true)
	_ = cmd.Flags().MarkHidden("no-wait")
	cmd.Flags().StringVarP(&port, "port", "p", "22", "`PORT` on the machine")
	cmd.Flags().StringVarP(&user, "user", "l", "", "`USER` on the machine")
	cmd.Flags().BoolVar(&shut, "close", false, "close the grant afterwards, without a question")
	cmd.Flags().BoolVar(&keep, "keep", false, "leave the grant open until its end, without a question")
	return cmd
}

type sshOptions struct {
	ask        askOptions
	user, port string
	shut, keep bool
	machine    string
	args       []string
}

func (c *cli) runSSH(ctx context.Context, o sshOptions) error {
	// A resource id holds no @, so what stands before one is a user.
	if user, vm, ok := strings.Cut(o.machine, "@"); ok {
		if o.user != "" && o.user != user {
			return badInput("user", "--user %s and %s@ contradict each other", o.user, user)
		}
		o.user, o.machine = user, vm
		if user == "" || vm == "" {
			return badInput("", "%q is not USER@VM", user+"@"+vm)
		}
	}
	if strings.HasPrefix(o.user, "-") || strings.ContainsFunc(o.user, func(r rune) bool { return r <= ' ' || hostile(r) || strings.ContainsRune("'\"`;&|<>()$\\", r) }) {
		return badInput("user", "user %q is not the name of a user", o.user)
	}
	options, command, err := splitSSH(o.args)
	if err != nil {
		return err
	}
	o.ask.ports, o.ask.protocol = []string{o.port}, "tcp"
	in, err := c.input([]string{o.machine}, o.ask)
	if err != nil {
		return err
	}
	if len(in.Ports) != 1 || in.Ports[0].Count() != 1 {
		return badInput("port", "ssh takes one port, not %s", o.port)
	}
	cl, err := c.client()
	if err != nil {
		return err
	}
	st, err := cl.Status(ctx)
	if err != nil {
		return err
	}
	program := "ssh"
	if !st.Demo {
		if program, err = c.Find("ssh"); err != nil { // before anybody is asked to approve
			return access.Errorf(access.CodeUnavailable, "there is no ssh program on this machine").WithHint("install an OpenSSH client, or use: curfew ensure %s", o.machine).Wrap(err)
		}
	}
	gs, err := c.ensure(ctx, cl, in, o.ask)
	if err != nil {
		return err
	}
	if len(gs) == 0 {
		return access.Errorf(access.CodeInternal, "the request was approved and no grant came of it")
	}
	g := gs[0]
	if len(g.Connect) == 0 {
		if g, err = cl.Grant(ctx, g.ID); err != nil {
			return err
		}
	}
	vm, err := cl.VM(ctx, g.VM.ID)
	if err != nil {
		return err
	}
	host, port, err := connectTo(g, vm, in.Ports[0].First)
	if err != nil {
		return err
	}
	way, err := c.packetsWay(ctx, &o, g)
	if err != nil {
		return err
	}
	argv := sshArgv(program, host, port, o.user, options, command)
	if way != nil {
		argv = slices.Concat(way.Prefix, sshArgv(program, host, port, o.user, slices.Concat(way.SSH, options), command))
	}
	if st.Demo && way == nil {
		c.say("nothing is behind this port: the demo simulates Azure, and no packet flows. On a real machine this would run:")
		if err := c.show(map[string]any{"grant": g.ID, "host": host, "port": port, "command": argv, "ran": false}, func() string { return quoteArgv(argv) + "\n" }); err != nil {
			return err
		}
		return c.afterSSH(ctx, cl, g, o)
	}
	if way == nil { // a simulation's rules are in force at once, and its addresses are not this machine's
		c.tryReach(ctx, net.JoinHostPort(host, strconv.Itoa(int(port))))
	}
	c.say("running: %s", quoteArgv(argv))
	code, err := c.Run(ctx, argv)
	if err != nil {
		return access.Errorf(access.CodeUnavailable, "ssh could not be run: %v", err).WithHint("the grant stays open; close it with: curfew grant close %s", g.ID)
	}
	// The session is over, perhaps by Ctrl-C; closing it must still be possible.
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), 3*time.Minute)
	defer cancel()
	err = c.afterSSH(after, cl, g, o)
	if code != 0 {
		if err != nil {
			c.fail(ctx, err)
		}
		return exitError{code}
	}
	return err
}

// packetsWay is how ssh runs where a simulation carries real packets, nil anywhere else.
func (c *cli) packetsWay(ctx context.Context, o *sshOptions, g api.Grant) (*PacketsWay, error) {
	if c.Local.Packets == nil {
		return nil, nil
	}
	way, err := c.Local.Packets(ctx, c.serverURL(), g.Source)
	if err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "%v", err).WithHint("the grant stays open; close it with: %s", c.command("grant close "+g.ID))
	}
	if way == nil {
		return nil, nil
	}
	if _, err := c.Find("ssh"); err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "there is no ssh program on this machine").WithHint("install an OpenSSH client; the grant stays open").Wrap(err)
	}
	if o.user == "" {
		o.user = way.User
	}
	return way, nil
}

// tryReach gives Azure a few seconds to let the first packet through: a written rule takes effect a little later.
func (c *cli) tryReach(ctx context.Context, address string) {
	if c.Reach == nil {
		return
	}
	end := c.now().Add(10 * time.Second)
	for {
		try, cancel := context.WithTimeout(ctx, 3*time.Second)
		err := c.Reach(try, address)
		cancel()
		if err == nil || ctx.Err() != nil {
			return
		}
		if !c.now().Before(end) {
			c.say("the rules let you in, and nothing answers at %s yet (%v); ssh tries all the same", address, err)
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-c.Clock.After(500 * time.Millisecond):
		}
	}
}

// afterSSH closes the grant if that is wanted, and says what stays open if it is not.
func (c *cli) afterSSH(ctx context.Context, cl *client.Client, g api.Grant, o sshOptions) error {
	shut := o.shut
	if !shut && !o.keep && c.Terminal.In && c.Terminal.Err {
		fmt.Fprintf(c.Stderr, "port %s of %s is open until %s. Close it now? [Y/n] ", g.Port, safe(g.VM.Name), clockTime(g.EndsAt, c.now(), c.Location))
		line, err := bufio.NewReader(c.Stdin).ReadString('\n')
		switch strings.ToLower(strings.TrimSpace(line)) {
		case "", "y", "yes":
			shut = err == nil
		}
	}
	if !shut {
		c.say("port %s of %s stays open: %s. Close it with: %s", g.Port, g.VM.Name, until(g.EndsAt, c.now(), c.Location), c.command("grant close "+g.ID))
		return nil
	}
	g, err := cl.Close(ctx, g.ID)
	if err != nil {
		return err
	}
	if g, err = c.awaitShut(ctx, cl, g, c.now().Add(2*time.Minute)); err != nil {
		return err
	}
	c.say("shut: %s port %s", g.VM.Name, portOf(g.Port, g.Protocol))
	return nil
}

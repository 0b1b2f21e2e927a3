package packets

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/sim"
)

// World is a simulator's estate in namespaces. Its methods may be called concurrently.
type World struct {
	cfg  Config
	sim  *sim.Sim
	log  *slog.Logger
	id   string
	dir  string
	lock *os.File
	srv  *http.Server
	n    *numbers

	stop    context.CancelFunc
	ended   chan struct{}
	poke    chan struct{} // a client was added
	changed <-chan struct{}
	unwatch func()

	mu      sync.Mutex
	clients []netip.Addr // wanted
	done    applied      // what the last round has brought about
	turn    chan struct{}
	err     error // of the last round

	now     *plan // of the loop alone
	signers map[string]*signer
}

type applied struct {
	revision uint64
	clients  int
	plan     *plan
}

// Start makes the estate's namespaces and keeps them like the simulator's rules until ctx ends or Close. It first removes what dead runs
// have left. An error names what is missing, and leaves nothing behind.
func Start(ctx context.Context, s *sim.Sim, cfg Config) (_ *World, err error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.MaxMachines <= 0 {
		cfg.MaxMachines = defaultMax
	}
	tags := map[string][]netip.Prefix{}
	for name, list := range cfg.Tags {
		tags[strings.ToLower(name)] = list
	}
	cfg.Tags = tags
	if gone, err := Clean(ctx); err != nil {
		return nil, fmt.Errorf("removing what an earlier run has left: %w", err)
	} else if len(gone) > 0 {
		cfg.Log.Warn("removed what killed runs had left", "runs", gone)
	}
	w := &World{cfg: cfg, sim: s, log: cfg.Log, ended: make(chan struct{}), poke: make(chan struct{}, 1), turn: make(chan struct{}), signers: map[string]*signer{},
		now: &plan{byName: map[string]*space{}}}
	parent := cfg.Dir
	if parent == "" {
		parent = os.TempDir()
	}
	if parent, err = filepath.Abs(parent); err != nil {
		return nil, err
	}
	if w.id, w.lock, err = begin(mark{Server: cfg.Server}); err != nil {
		return nil, fmt.Errorf("marking the run: %w", err)
	}
	run, cancel := context.WithCancel(context.WithoutCancel(ctx))
	w.stop = cancel
	defer func() {
		if err != nil {
			cancel()
			close(w.ended)
			err = errors.Join(err, w.Close())
		}
	}()
	w.dir = filepath.Join(parent, "packets-"+w.id)
	if err := writeMark(w.id, mark{Server: cfg.Server, Dir: w.dir}); err != nil {
		return nil, err
	}
	if err := os.MkdirAll(w.dir, 0o700); err != nil {
		return nil, err
	}
	if _, err := w.key(ctx, "client"); err != nil {
		return nil, err
	}
	w.n = &numbers{run: w.id, of: map[string]int{}}
	for _, c := range cfg.Clients {
		if err := clientFault(c); err != nil {
			return nil, err
		}
		if c = c.Unmap(); !slices.Contains(w.clients, c) {
			w.clients = append(w.clients, c)
		}
	}
	w.changed, w.unwatch = s.Watch()
	if err := w.round(ctx); err != nil {
		return nil, err
	}
	if err := w.serve(); err != nil {
		return nil, err
	}
	context.AfterFunc(ctx, cancel)
	go w.loop(run)
	return w, nil
}

// clientFault says why an address cannot be a client's.
func clientFault(a netip.Addr) error {
	a = a.Unmap()
	documented := netip.MustParsePrefix("192.0.2.0/24")
	switch {
	case !a.IsValid(), a.IsUnspecified(), a.IsLoopback(), a.IsMulticast(), a.IsLinkLocalUnicast(), a == hostAddr, netip.MustParsePrefix("100.64.0.0/10").Contains(a):
		return fmt.Errorf("%s cannot be a client's address", a)
	case documented.Contains(a):
		return fmt.Errorf("%s cannot be a client's address: %s may be in use on the machine itself", a, documented)
	}
	return nil
}

func (w *World) loop(ctx context.Context) {
	defer close(w.ended)
	retry := time.Duration(0)
	for {
		var again <-chan time.Time
		if retry > 0 {
			again = time.After(retry)
		}
		select {
		case <-ctx.Done():
			return
		case <-w.changed:
			<-clock.System{}.After(settle)
		case <-w.poke:
		case <-again:
		}
		retry = 0
		if err := w.round(ctx); err != nil && ctx.Err() == nil {
			w.log.Error("packets do not follow the simulator", "error", err)
			retry = time.Second
		}
	}
}

// round reads the simulator once and brings about what it says.
func (w *World) round(ctx context.Context) (err error) {
	w.mu.Lock()
	clients := slices.Clone(w.clients)
	w.mu.Unlock()
	revision := w.sim.Revision() // read before the estate: it may be newer than we say, never older
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.err = err; err == nil {
			w.done = applied{revision, len(clients), w.now}
		}
		close(w.turn)
		w.turn = make(chan struct{})
	}()
	e, err := readEstate(w.sim.Dump())
	if err != nil {
		return err
	}
	if len(e.machines) > w.cfg.MaxMachines {
		return fmt.Errorf("the estate has %d machines, and packets are carried for %d at most", len(e.machines), w.cfg.MaxMachines)
	}
	return w.apply(ctx, makePlan(e, w.n, w.cfg, clients))
}

// init of a namespace: it forwards, does not doubt where packets come from, and takes packets of connections that it sees in the middle.
const sysctls = `cd /proc/sys/net && echo 1 >ipv4/ip_forward && echo 0 >ipv4/conf/all/rp_filter && echo 0 >ipv4/conf/default/rp_filter &&
{ [ ! -e ipv6/conf/all/forwarding ] || { echo 0 >ipv6/conf/all/disable_ipv6 && echo 0 >ipv6/conf/default/disable_ipv6 && echo 1 >ipv6/conf/all/forwarding && echo 0 >ipv6/conf/default/accept_dad; }; } &&
for f in ipv4/conf/all/send_redirects ipv4/conf/default/send_redirects; do echo 0 >$f; done
`

// liberal lets the packets by which cut asks pass for what they are, parts of an open connection, whatever their sequence numbers. It exists
// once connection tracking does.
const liberal = "echo 1 >/proc/sys/net/netfilter/nf_conntrack_tcp_be_liberal\n"

// apply brings about a plan. After an error nobody knows how far it came: everything is taken down, and the next round begins anew.
func (w *World) apply(ctx context.Context, next *plan) (err error) {
	old := w.now
	defer func() {
		if err != nil {
			w.now = &plan{byName: map[string]*space{}}
			w.takeDown(context.WithoutCancel(ctx))
		}
	}()
	var fresh []string
	for _, s := range next.spaces {
		if old.byName[s.name] == nil {
			fresh = append(fresh, "netns add "+s.name)
		}
	}
	if err := ip(ctx, "", false, fresh...); err != nil {
		return err
	}
	// Rules come before addresses and routes, so that nothing is open while it is being built.
	if err := next.each(ctx, func(ctx context.Context, s *space) error {
		was := old.byName[s.name]
		if was == nil {
			if _, err := inside(ctx, s.name, sysctls, "sh"); err != nil {
				return err
			}
			if err := ip(ctx, s.name, false, "link set lo up"); err != nil {
				return err
			}
		}
		if s.rules != "" && (was == nil || was.rules != s.rules) {
			if _, err := inside(ctx, s.name, s.rules, "nft", "-f", "-"); err != nil {
				return err
			}
		}
		if was == nil && s.rules != "" {
			if _, err := inside(ctx, s.name, liberal, "sh"); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return err
	}
	if err := relink(ctx, old, next); err != nil {
		return err
	}
	if err := next.each(ctx, func(ctx context.Context, s *space) error { return lay(ctx, old.byName[s.name], s) }); err != nil {
		return err
	}
	if err := w.sign(ctx, old, next); err != nil {
		return err
	}
	for _, s := range old.spaces {
		if next.byName[s.name] == nil {
			if err := removeSpace(ctx, s.name); err != nil {
				return err
			}
		}
	}
	w.now = next
	for _, s := range next.spaces {
		if was := old.byName[s.name]; s.flush && was != nil && was.rules != s.rules {
			if _, err := w.cut(ctx, s, false); err != nil {
				w.log.Error("sessions were not judged anew", "namespace", s.name, "error", err)
			}
		}
	}
	for _, p := range next.problems {
		if !slices.Contains(old.problems, p) {
			w.log.Warn("packets: " + p)
		}
	}
	return nil
}

// each does something with all namespaces, a few at a time.
func (p *plan) each(ctx context.Context, f func(ctx context.Context, s *space) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, s := range p.spaces {
		g.Go(func() error { return f(ctx, s) })
	}
	return g.Wait()
}

// takeDown removes all namespaces of the run.
func (w *World) takeDown(ctx context.Context) {
	for name, x := range w.signers {
		x.stop()
		delete(w.signers, name)
	}
	for _, name := range spacesOf(w.id) {
		if err := removeSpace(ctx, name); err != nil {
			w.log.Error("a namespace was not removed", "namespace", name, "error", err)
		}
	}
}

// relink removes and makes the pairs of interfaces.
func relink(ctx context.Context, old, next *plan) error {
	for _, l := range old.links {
		if !slices.Contains(next.links, l) && next.byName[l.a] != nil {
			_ = ip(ctx, l.a, true, "link del "+l.devA)
		}
	}
	begin, end := map[string][]string{}, map[string][]string{}
	for _, l := range next.links {
		if slices.Contains(old.links, l) {
			continue
		}
		begin[l.a] = append(begin[l.a], fmt.Sprintf("link add %s address %s type veth peer name %s address %s netns %s", l.devA, macText(mac(l.a, l.devA)), l.devB, macText(mac(l.b, l.devB)), l.b),
			"link set dev "+l.devA+" addrgenmode none", "link set dev "+l.devA+" up")
		end[l.b] = append(end[l.b], "link set dev "+l.devB+" addrgenmode none", "link set dev "+l.devB+" up")
	}
	for _, step := range []map[string][]string{begin, end} {
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(4)
		for ns, lines := range step {
			g.Go(func() error { return ip(ctx, ns, false, lines...) })
		}
		if err := g.Wait(); err != nil {
			return err
		}
	}
	return nil
}

// lay gives a namespace its addresses and routes.
func lay(ctx context.Context, was, s *space) error {
	var before []string
	if was != nil {
		before = was.lines
	}
	if slices.Equal(before, s.lines) {
		return nil
	}
	var del, add []string
	for _, l := range slices.Backward(before) {
		if !slices.Contains(s.lines, l) {
			del = append(del, strings.Replace(strings.Replace(l, " replace ", " del ", 1), " add ", " del ", 1))
		}
	}
	if err := ip(ctx, s.name, true, del...); err != nil {
		return err
	}
	for _, l := range s.lines {
		if strings.HasPrefix(l, "rule add ") { // not idempotent
			if err := ip(ctx, s.name, true, strings.Replace(l, " add ", " del ", 1)); err != nil {
				return err
			}
		}
		add = append(add, l)
	}
	return ip(ctx, s.name, false, add...)
}

// sign starts and stops the machines' sshd.
func (w *World) sign(ctx context.Context, old, next *plan) error {
	names := func(p *plan) (out []string) {
		for _, s := range p.spaces {
			if s.sshd != nil {
				out = append(out, s.name+fmt.Sprint(*s.sshd))
			}
		}
		return out
	}
	var mu sync.Mutex
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4)
	for _, s := range next.spaces {
		mu.Lock()
		running := w.signers[s.name]
		mu.Unlock()
		switch {
		case s.sshd != nil && running == nil:
			g.Go(func() error {
				x, err := w.signIn(gctx, s)
				if err != nil {
					return err
				}
				mu.Lock()
				defer mu.Unlock()
				w.signers[s.name] = x
				return nil
			})
		case s.sshd == nil && running != nil: // switched off: its sessions end too
			running.stop()
			mu.Lock()
			delete(w.signers, s.name)
			mu.Unlock()
			for _, pid := range processes(ctx, s.name) {
				if p, err := os.FindProcess(pid); err == nil {
					_ = p.Kill()
				}
			}
		}
	}
	err := g.Wait()
	for name, x := range w.signers {
		if next.byName[name] == nil {
			x.stop()
			delete(w.signers, name)
		}
	}
	if err == nil && !slices.Equal(names(old), names(next)) {
		err = w.knownHosts(next)
	}
	return err
}

// Sync waits until packets flow as the simulator says now.
func (w *World) Sync(ctx context.Context) error {
	want := w.sim.Revision()
	return w.wait(ctx, func(a applied) bool { return a.revision >= want })
}

func (w *World) wait(ctx context.Context, ok func(applied) bool) error {
	for {
		w.mu.Lock()
		done, turn, err := w.done, w.turn, w.err
		w.mu.Unlock()
		if ok(done) {
			return nil
		}
		select {
		case <-turn:
			w.mu.Lock()
			err = w.err
			w.mu.Unlock()
			if err != nil {
				return err
			}
		case <-w.ended:
			return errors.Join(errors.New("the run has ended"), err)
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		}
	}
}

// Client returns how commands are run from an address: on the Internet, or within a virtual network that holds it. The namespace is made if there is none; asking again gives the same.
func (w *World) Client(ctx context.Context, a netip.Addr) (Access, error) {
	a = a.Unmap()
	if err := clientFault(a); err != nil {
		return Access{}, err
	}
	w.mu.Lock()
	i := slices.Index(w.clients, a)
	if i < 0 {
		if p := w.done.plan; p != nil && !p.free(a) {
			w.mu.Unlock()
			return Access{}, fmt.Errorf("%s is an address of the estate, and cannot be a client's", a)
		}
		i = len(w.clients)
		w.clients = append(w.clients, a)
	}
	w.mu.Unlock()
	select {
	case w.poke <- struct{}{}:
	default:
	}
	if err := w.wait(ctx, func(d applied) bool { return d.clients > i }); err != nil {
		return Access{}, err
	}
	return w.access(clientSpace(w.n, a)), nil
}

// free tells whether no machine, frontend or router has the address.
func (p *plan) free(a netip.Addr) bool {
	for _, s := range p.spaces {
		for _, l := range s.lines {
			if f := strings.Fields(l); len(f) > 2 && f[2] == host(a) {
				return false
			}
		}
	}
	return true
}

// Inside returns how commands are run in a machine, given its id (any case), past its rules inward but not outward.
func (w *World) Inside(id string) (Access, error) {
	m, err := w.find(id)
	if err != nil {
		return Access{}, err
	}
	return w.access(m.Namespace), nil
}

func (w *World) access(namespace string) Access {
	path, err := lookPath("ip")
	if err != nil {
		path = "ip"
	}
	at := func(name string) string { return filepath.Join(w.dir, name) }
	return Access{Namespace: namespace, User: "root", Prefix: []string{path, "netns", "exec", namespace},
		SSH: []string{"-i", at("client"), "-o", "IdentitiesOnly=yes", "-o", "IdentityAgent=none", "-o", "UserKnownHostsFile=" + at("known_hosts"), "-o", "GlobalKnownHostsFile=/dev/null",
			"-o", "StrictHostKeyChecking=yes", "-o", "UpdateHostKeys=no", "-o", "ConnectTimeout=5"}}
}

func (w *World) find(id string) (Machine, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, m := range w.done.plan.machines {
		if strings.EqualFold(m.ID, id) {
			return m, nil
		}
	}
	return Machine{}, fmt.Errorf("no machine %s carries packets", id)
}

// Info says what there is.
func (w *World) Info() Info {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.done.plan
	return Info{Run: w.id, Server: w.cfg.Server, Dir: w.dir, Machines: slices.Clone(p.machines), UnknownTags: p.unknown, Problems: p.problems}
}

// SetServer names the Curfew server that uses this simulator, where it was not known at the start.
func (w *World) SetServer(url string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cfg.Server = url
	return writeMark(w.id, mark{Server: url, Dir: w.dir})
}

// Close ends the run and removes all that belongs to it. It may be called again, also after an error, which leaves the mark for the next
// start.
func (w *World) Close() error {
	w.stop()
	<-w.ended
	if w.unwatch != nil {
		w.unwatch()
	}
	if w.srv != nil {
		_ = w.srv.Close()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	w.takeDown(ctx)
	err := end(ctx, w.id)
	_ = w.lock.Close()
	return err
}

package packets

import (
	"context"
	"fmt"
	"net/netip"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/sim/packets/frame"
)

// session is an established TCP connection that was opened to a machine.
type session struct{ local, remote netip.AddrPort }

// sessions of a machine: established connections on ports where something listens.
func sessions(ctx context.Context, namespace string) ([]session, error) {
	listening, err := inside(ctx, namespace, "", "ss", "-Htnl")
	if err != nil {
		return nil, err
	}
	open := map[string]bool{}
	for line := range strings.Lines(listening) {
		if f := strings.Fields(line); len(f) > 3 {
			if _, port, ok := cutLast(f[3], ":"); ok {
				open[port] = true
			}
		}
	}
	out, err := inside(ctx, namespace, "", "ss", "-Htn", "state", "established")
	if err != nil {
		return nil, err
	}
	var list []session
	for line := range strings.Lines(out) {
		f := strings.Fields(line)
		if len(f) < 4 {
			continue
		}
		local, err1 := netip.ParseAddrPort(f[2])
		remote, err2 := netip.ParseAddrPort(f[3])
		if err1 == nil && err2 == nil && open[strconv.Itoa(int(local.Port()))] && !local.Addr().IsLoopback() {
			unmap := func(a netip.AddrPort) netip.AddrPort { return netip.AddrPortFrom(a.Addr().Unmap(), a.Port()) }
			list = append(list, session{unmap(local), unmap(remote)})
		}
	}
	return list, nil
}

func cutLast(s, sep string) (before, after string, found bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

var liveElement = regexp.MustCompile(`([0-9a-f.:]+) \. (\d+) \. ([0-9a-f.:]+) \. (\d+)`)

// cut ends the sessions of a machine that its rules do not let through any more, all of them with every. Whether they do, the rules
// say themselves: a packet of each session, as its client would send it to find out whether the other end is there, is put on the
// machine's wire, and what passes is noted in a set (machineTable). It returns how many were cut.
func (w *World) cut(ctx context.Context, s *space, every bool) (int, error) {
	list, err := sessions(ctx, s.name)
	if err != nil || len(list) == 0 {
		return 0, err
	}
	live := map[session]bool{}
	if !every {
		sockets := map[string]*frame.Socket{}
		defer func() {
			for _, x := range sockets {
				_ = x.Close()
			}
		}()
		for _, x := range list {
			p, ok := s.port(x.local.Addr())
			if !ok {
				continue
			}
			key := p.router + " " + p.peer
			if sockets[key] == nil {
				if sockets[key], err = frame.Open(p.router, p.peer); err != nil {
					return 0, err
				}
			}
			if err := sockets[key].Send(frame.Packet{From: mac(p.router, p.peer), To: mac(s.name, p.dev), Src: x.remote.Addr(), Dst: x.local.Addr(), SrcPort: x.remote.Port(),
				DstPort: x.local.Port(), Protocol: frame.TCP, Flags: frame.ACK}); err != nil {
				return 0, err
			}
		}
		<-clock.System{}.After(20 * time.Millisecond)
		for _, f := range families {
			out, err := inside(ctx, s.name, "", "nft", "list", "set", "inet", "nsg", "live"+f.digit)
			if err != nil {
				return 0, err
			}
			for _, m := range liveElement.FindAllStringSubmatch(out, -1) {
				remote, err1 := addrPort(m[1], m[2])
				local, err2 := addrPort(m[3], m[4])
				if err1 == nil && err2 == nil {
					live[session{local, remote}] = true
				}
			}
		}
	}
	n := 0
	for _, x := range list {
		if live[x] {
			continue
		}
		if _, err := inside(ctx, s.name, "", "ss", "-K", "-t", "state", "established", "src", x.local.String(), "and", "dst", x.remote.String()); err != nil {
			return n, err
		}
		n++
	}
	return n, nil
}

func addrPort(a, p string) (netip.AddrPort, error) {
	x, err := netip.ParseAddr(a)
	if err != nil {
		return netip.AddrPort{}, err
	}
	n, err := strconv.ParseUint(p, 10, 16)
	return netip.AddrPortFrom(x, uint16(n)), err
}

func (s *space) port(a netip.Addr) (port, bool) {
	for _, p := range s.ports {
		for _, x := range p.addrs {
			if x == a {
				return p, true
			}
		}
	}
	return port{}, false
}

// HardClose cuts every session into a machine at once, whatever its rules say. It returns how many there were.
func (w *World) HardClose(ctx context.Context, id string) (int, error) {
	m, err := w.find(id)
	if err != nil {
		return 0, err
	}
	w.mu.Lock()
	s := w.done.plan.byName[m.Namespace]
	w.mu.Unlock()
	if s == nil {
		return 0, fmt.Errorf("%s has no namespace any more", id)
	}
	return w.cut(ctx, s, true)
}

package cli

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
)

// The options of OpenSSH's ssh(1), by whether they take an argument. What is not among them is refused: taking an unknown letter for
// one without an argument could turn its argument into the host.
const (
	sshFlags = "46AaCfGgKkMNnqsTtVvXxYy"
	sshTakes = "BbcDEeFIiJLlmOoPQRSWw"
)

// splitSSH parts what the user gave for ssh into options, which stand before the host, and the remote command after it.
func splitSSH(args []string) (options, command []string, err error) {
	for i := 0; i < len(args); i++ {
		a := args[i]
		if a == "--" {
			return options, args[i+1:], nil
		}
		if len(a) < 2 || a[0] != '-' {
			return options, args[i:], nil
		}
		options = append(options, a)
		for j := 1; j < len(a); j++ {
			switch {
			case a[j] == 'p':
				return nil, nil, badInput("port", "the port is Curfew's to choose: -p does not go to ssh").WithHint("name the machine's port with --port, before --")
			case strings.IndexByte(sshFlags, a[j]) >= 0:
				continue
			case strings.IndexByte(sshTakes, a[j]) >= 0:
				if j == len(a)-1 {
					if i++; i == len(args) {
						return nil, nil, badInput("", "ssh option %s needs an argument", a)
					}
					options = append(options, args[i])
				}
			default:
				return nil, nil, badInput("", "ssh has no option -%c that Curfew knows", a[j])
			}
			break
		}
	}
	return options, nil, nil
}

// sshArgv is the command line for ssh. The host stands after --, so that neither it nor the command can be taken for an option.
func sshArgv(program, host string, port uint16, user string, options, command []string) []string {
	argv := []string{program, "-p", strconv.Itoa(int(port))}
	if user != "" {
		argv = append(argv, "-l", user)
	}
	argv = append(argv, options...)
	argv = append(argv, "--", host)
	return append(argv, command...)
}

// connectTo picks where a client reaches the granted port: the machine's public address or its load balancer's port, else, for those
// inside the network, its private address. Only addresses come out of it, never a name.
func connectTo(g api.Grant, vm api.VM, port uint16) (string, uint16, error) {
	inside := g.Source.IsValid() && g.Source.Addr().IsPrivate()
	if inside && len(vm.PrivateIPs) > 0 {
		return vm.PrivateIPs[0].Unmap().String(), port, nil
	}
	for _, list := range [][]string{g.Connect, vm.Connect} {
		for _, s := range list {
			if at, back, ok := parseConnect(s); ok && back == port && at.Addr().Is4() == g.Source.Addr().Is4() {
				return at.Addr().String(), at.Port(), nil
			}
		}
	}
	for _, s := range vm.Connect { // an address of the machine's own, which leads to each of its ports
		if at, back, ok := parseConnect(s); ok && back == at.Port() && !strings.Contains(s, "→") && at.Addr().Is4() == g.Source.Addr().Is4() {
			return at.Addr().String(), port, nil
		}
	}
	e := access.Errorf(access.CodeConflict, "%s has no address that %s can connect to: no public one, and no load balancer's port for %d", vm.Name, source(g.Source), port)
	if len(vm.PrivateIPs) > 0 {
		return "", 0, e.WithHint("from inside the network its address is %s; the grant stays open: close it with: curfew grant close %s", vm.PrivateIPs[0], g.ID)
	}
	return "", 0, e
}

// parseConnect reads "203.0.113.5:22" or "198.51.100.7:50001 → 22".
func parseConnect(s string) (at netip.AddrPort, back uint16, ok bool) {
	front, b, mapped := strings.Cut(s, "→")
	at, err := netip.ParseAddrPort(strings.TrimSpace(front))
	if err != nil || at.Addr().Zone() != "" {
		return at, 0, false
	}
	back = at.Port()
	if mapped {
		n, err := strconv.ParseUint(strings.TrimSpace(b), 10, 16)
		if err != nil {
			return at, 0, false
		}
		back = uint16(n)
	}
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port()), back, true
}

// quoteArgv shows a command so that a shell reads the same arguments back.
func quoteArgv(argv []string) string {
	out := make([]string, len(argv))
	for i, a := range argv {
		if a != "" && !strings.ContainsFunc(a, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@=+,%", r))
		}) {
			out[i] = a
			continue
		}
		out[i] = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
	}
	return strings.Join(out, " ")
}

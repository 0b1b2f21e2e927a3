package cli

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/posture"
	"github.com/curfew-jit/curfew/internal/scan"
)

func (c *cli) explainCmd() *cobra.Command {
	var s *sourceFlags
	var port, from, protocol string
	var source uint16
	var ascii bool
	cmd := &cobra.Command{
		Use:   "explain VM",
		Short: "Walk the path to a port, hop by hop, and say what decides",
		Long: `Says whether a source reaches a port of a machine, on which way, and which rule decides at each hop.

The source is an address or range, internet, or virtual-network.`,
		Example: "  curfew scan explain web-01 --port 22 --from 203.0.113.9",
		Args:    need(1, 1, "a VM"),
	}
	s = c.sourceFlags(cmd, true)
	f := cmd.Flags()
	f.StringVar(&port, "port", "", "the machine's `PORT` (default 22 on Linux, 3389 on Windows)")
	f.StringVar(&from, "from", "internet", "`SOURCE`: an address, a range, internet or virtual-network")
	f.Uint16Var(&source, "source-port", 0, "the `PORT` that the source sends from (default any: whichever gets it in)")
	f.StringVar(&protocol, "protocol", "tcp", "tcp or udp")
	f.BoolVar(&ascii, "ascii", false, "draw the tree without box characters")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		server, err := s.check(c, cmd)
		if err != nil {
			return err
		}
		q := scan.Question{Protocol: netsec.TCP, SourcePort: source}
		switch protocol = strings.ToLower(protocol); protocol {
		case "tcp":
		case "udp":
			q.Protocol = netsec.UDP
		default:
			return badInput("protocol", "--protocol is %q, and is tcp or udp", protocol)
		}
		if err := questionFrom(&q, from); err != nil {
			return err
		}
		if port != "" {
			n, err := strconv.ParseUint(port, 10, 16)
			if err != nil || n == 0 {
				return badInput("port", "%q is no port", port).WithHint("a port is 1 to 65535")
			}
			q.Port = uint16(n)
		}
		var x scan.Explanation
		if server {
			cl, err := c.client()
			if err != nil {
				return err
			}
			if x, err = cl.Explain(cmd.Context(), api.ExplainInput{VM: args[0], Port: q.Port, Protocol: protocol, From: q.From.String(), FromPort: source}); err != nil {
				return err
			}
		} else {
			got, err := c.collect(cmd.Context(), s)
			if err != nil {
				return err
			}
			if x, err = posture.Explain(got.Estate, args[0], q); err != nil {
				return err
			}
		}
		return c.show(x, func() string {
			width := c.Width
			if width == 0 {
				width = 120
			}
			if ascii {
				return x.ASCII(width)
			}
			return x.Text(width)
		})
	}
	return cmd
}

// questionFrom reads a source.
func questionFrom(q *scan.Question, s string) (err error) {
	if p, err := netip.ParsePrefix(s); err == nil {
		if !p.IsSingleIP() {
			return badInput("from", "--from is the range %s, and one address is asked about at a time", p).WithHint("name one address of it, or internet or virtual-network")
		}
		s = p.Addr().String()
	}
	if q.From, err = scan.ParseFrom(s); err != nil {
		return badInput("from", "--from: %v", err).WithHint("give an address, internet or virtual-network")
	}
	return nil
}

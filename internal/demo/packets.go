package demo

import (
	"context"
	"log/slog"
	"net/netip"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/sim/packets"
)

// carrier are the real packets of a simulated Azure; nil carries none.
type carrier struct{ world *packets.World }

// carry makes the namespaces if they are wanted, with a client for each account.
func carry(ctx context.Context, wanted bool, az *simulated, dir string, log *slog.Logger) (*carrier, error) {
	if !wanted {
		return nil, nil
	}
	if err := packets.Missing(); err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "%v", err).WithHint("without --packets rules are judged, and nothing is behind the ports")
	}
	var clients []netip.Addr
	for _, a := range Accounts() {
		clients = append(clients, a.MyIP)
	}
	w, err := packets.Start(ctx, az.keep.sim, packets.Config{Dir: dir, Clients: clients, Log: log})
	if err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "the namespaces could not be made: %v", err)
	}
	return &carrier{w}, nil
}

// serves says whose packets they are, so that the command line finds them, and returns the id of the run, "" if there are none.
func (c *carrier) serves(server string) (string, error) {
	if c == nil {
		return "", nil
	}
	if err := c.world.SetServer(server); err != nil {
		return "", access.Errorf(access.CodeUnavailable, "the namespaces could not be marked: %v", err)
	}
	return c.world.Info().Run, nil
}

func (c *carrier) close() error {
	if c == nil {
		return nil
	}
	return c.world.Close()
}

//go:build !linux

package packets

import (
	"context"
	"errors"
	"net/netip"
	"runtime"

	"github.com/curfew-jit/curfew/internal/sim"
)

// World is a simulator's estate in namespaces; there is none on this system.
type World struct{}

// Peer is a run in another process of this machine.
type Peer struct{ Run string }

// Missing says that real packets need Linux.
func Missing() error {
	return errors.New("real packets need Linux, and this is " + runtime.GOOS)
}

// Start fails with Missing.
func Start(context.Context, *sim.Sim, Config) (*World, error) { return nil, Missing() }

// Clean fails with Missing.
func Clean(context.Context) ([]string, error) { return nil, Missing() }

// Find finds none.
func Find(context.Context, string, string) (*Peer, error) { return nil, nil }

// Info fails with Missing.
func (*Peer) Info(context.Context) (Info, error) { return Info{}, Missing() }

// Client fails with Missing.
func (*Peer) Client(context.Context, netip.Addr) (Access, error) { return Access{}, Missing() }

// Sync fails with Missing.
func (*World) Sync(context.Context) error { return Missing() }

// Client fails with Missing.
func (*World) Client(context.Context, netip.Addr) (Access, error) { return Access{}, Missing() }

// Inside fails with Missing.
func (*World) Inside(string) (Access, error) { return Access{}, Missing() }

// HardClose fails with Missing.
func (*World) HardClose(context.Context, string) (int, error) { return 0, Missing() }

// Info is empty.
func (*World) Info() Info { return Info{} }

// SetServer does nothing.
func (*World) SetServer(string) error { return nil }

// Close does nothing.
func (*World) Close() error { return nil }

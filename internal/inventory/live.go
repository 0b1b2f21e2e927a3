package inventory

import (
	"context"
	"net/netip"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/singleflight"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/netsec"
)

// EnvOf returns what tags and application security groups mean for a group wherever it is used. A group that serves several
// networks has the ranges of all of them: what overlaps in one of them counts. Where one of its networks is not known, none is, so
// that the tag VirtualNetwork may be anything there.
func (s *Snapshot) EnvOf(nsgID string) netsec.Env {
	n, ok := s.NSG(nsgID)
	if !ok {
		return netsec.Env{}
	}
	vnets := map[string]bool{}
	for _, id := range n.Subnets {
		vnets[azure.Key(azure.ParentID(id))] = true
	}
	env := s.env("", nsgID)
	env.VirtualNetwork = nil
	for _, id := range n.NICs {
		of := s.vnetsOfNIC(id)
		if len(of) == 0 {
			return env
		}
		for _, vnet := range of {
			vnets[vnet] = true
		}
	}
	for id := range vnets {
		of := s.VNetPrefixes(id)
		if len(of) == 0 {
			env.VirtualNetwork = nil
			return env
		}
		env.VirtualNetwork = append(env.VirtualNetwork, of...)
	}
	slices.SortFunc(env.VirtualNetwork, netip.Prefix.Compare)
	env.VirtualNetwork = slices.Compact(env.VirtualNetwork)
	return env
}

func (s *Snapshot) vnetsOfNIC(id string) (out []string) {
	nic := s.raw.nics[azure.Key(id)]
	if nic == nil {
		if s.base != nil {
			return s.base.vnetsOfNIC(id)
		}
		return nil
	}
	for _, c := range nic.Properties.IPConfigurations {
		if c.Properties.Subnet != nil {
			out = append(out, azure.Key(azure.ParentID(c.Properties.Subnet.ID)))
		}
	}
	return out
}

// Live keeps the newest snapshot and confirms machines. Its errors are fit to show.
type Live struct {
	reader Reader
	clock  clock.Clock
	subs   []string
	maxAge time.Duration
	once   singleflight.Group

	mu   sync.Mutex
	last *Snapshot
}

// NewLive returns a Live over the given subscriptions (none: all that the identity sees). Snapshot reads again what is older than maxAge.
func NewLive(r Reader, c clock.Clock, subscriptions []string, maxAge time.Duration) *Live {
	return &Live{reader: r, clock: c, subs: subscriptions, maxAge: maxAge}
}

// Snapshot returns what was read last, reading it only where there is nothing, or nothing young enough.
func (l *Live) Snapshot(ctx context.Context) (*Snapshot, error) {
	l.mu.Lock()
	last := l.last
	l.mu.Unlock()
	if last != nil {
		if age := l.clock.Now().Sub(last.Taken); age < l.maxAge && age > -l.maxAge {
			return last, nil
		}
	}
	s, err := l.Refresh(ctx)
	if err != nil && last != nil {
		return last, nil // an old reading carries its age
	}
	return s, err
}

// readLimit bounds a reading of everything that nobody may be waiting for any more.
const readLimit = 10 * time.Minute

// Refresh reads everything again; callers at the same time share one reading.
func (l *Live) Refresh(ctx context.Context) (*Snapshot, error) {
	ch := l.once.DoChan("all", func() (any, error) {
		// One caller going away must not fail the others.
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), readLimit)
		defer cancel()
		s, err := Collect(ctx, l.reader, CollectOptions{Subscriptions: l.subs, Now: l.clock.Now()})
		if err != nil {
			return nil, azure.UserError(err)
		}
		l.mu.Lock()
		l.last = s
		l.mu.Unlock()
		return s, nil
	})
	select {
	case r := <-ch:
		if r.Err != nil {
			return nil, r.Err
		}
		return r.Val.(*Snapshot), nil
	case <-ctx.Done():
		return nil, access.Errorf(access.CodeAzureUnavailable, "the machines were still being read when the call was given up").
			WithHint("try again in a minute").Wrap(ctx.Err())
	}
}

// Confirm reads one machine from the resource providers themselves.
func (l *Live) Confirm(ctx context.Context, vmID string) (*Snapshot, error) {
	l.mu.Lock()
	base := l.last
	l.mu.Unlock()
	s, err := Confirm(ctx, l.reader, vmID, base, l.clock.Now())
	if err != nil {
		return nil, azure.UserError(err)
	}
	return s, nil
}

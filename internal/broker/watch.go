package broker

import (
	"context"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
)

// hub tells watchers that entries were written; they read them from the store themselves, so that nothing is lost.
type hub struct {
	mu sync.Mutex
	ch chan struct{}
}

func newHub() *hub { return &hub{ch: make(chan struct{})} }

func (h *hub) notify() {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.ch)
	h.ch = make(chan struct{})
}

func (h *hub) wait() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ch
}

// Entries implements Service.
func (b *Broker) Entries(ctx context.Context, c access.Caller, f AuditFilter) (out []audit.Entry, err error) {
	if err := b.need(ctx, c, "audit.read", "", access.Auditor, access.Admin); err != nil {
		return nil, err
	}
	err = b.view(ctx, func(tx Tx) (err error) { out, err = tx.Entries(f); return err })
	return out, err
}

// Checkpoint implements Service.
func (b *Broker) Checkpoint(ctx context.Context, c access.Caller) (cp audit.Checkpoint, err error) {
	if err := b.need(ctx, c, "audit.read", "", access.Auditor, access.Admin); err != nil {
		return cp, err
	}
	err = b.view(ctx, func(tx Tx) (err error) { cp, err = tx.Checkpoint(); return err })
	return cp, err
}

// maySee tells whether a caller may see an entry: people see what concerns their own requests, the other roles everything.
func maySee(c access.Caller, e audit.Entry) bool {
	// Whoever is called as the program calls itself does not see all that the program does.
	return isPrivileged(c) || access.SamePerson(e.Actor, c.Name) && !access.SamePerson(e.Actor, system.Name) || access.SamePerson(e.Detail["requester"], c.Name)
}

// Watch implements Service. A negative after means: from now on.
func (b *Broker) Watch(ctx context.Context, c access.Caller, after int64) (<-chan audit.Entry, error) {
	if err := b.need(ctx, c, "events.watch", "", anyRole...); err != nil {
		return nil, err
	}
	next := after + 1
	err := b.view(ctx, func(tx Tx) error {
		size, err := tx.LogSize()
		if after < 0 || next > size {
			next = size
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	out := make(chan audit.Entry)
	go func() {
		defer close(out)
		for {
			wake := b.hub.wait()
			var page []audit.Entry
			err := b.view(ctx, func(tx Tx) (err error) {
				page, err = tx.Entries(AuditFilter{Ascending: true, After: next - 1, Limit: 200})
				return err
			})
			if err != nil && ctx.Err() == nil {
				b.log.Warn("reading events", "error", err)
			}
			for _, e := range page {
				next = e.Index + 1
				if !maySee(c, e) {
					continue
				}
				select {
				case out <- e:
				case <-ctx.Done():
					return
				}
			}
			if len(page) > 0 {
				continue
			}
			var again <-chan time.Time
			if err != nil {
				again = b.cfg.Clock.After(time.Second) // the store may be back without anything being written
			}
			select {
			case <-wake:
			case <-again:
			case <-ctx.Done():
				return
			}
		}
	}()
	return out, nil
}

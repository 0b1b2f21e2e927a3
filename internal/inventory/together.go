package inventory

import (
	"context"
	"errors"
	"sync"

	"github.com/curfew-jit/curfew/internal/azure"
)

// Together returns a context under which Confirm reads what several machines have in common (networks, their admin rules,
// groups, balancers) once for all of them: forty machines behind one group are 83 reads and not 200, of the 250 that a
// subscription may make in a burst (FACTS 3). Nothing that is shared was read before Together was called; begin it when the
// machines' turn has come, and do not keep it.
func Together(ctx context.Context) context.Context {
	return context.WithValue(ctx, togetherKey{}, &together{reads: map[string]*shared{}})
}

type togetherKey struct{}

type together struct {
	mu    sync.Mutex
	reads map[string]*shared
}

// shared is one read: v and err are set when done is closed.
type shared struct {
	done chan struct{}
	v    any
	err  error
}

// togetherOf returns a reader that shares what ctx says is to be shared.
func togetherOf(ctx context.Context, r Reader) Reader {
	if t, ok := ctx.Value(togetherKey{}).(*together); ok {
		return sharing{r, t}
	}
	return r
}

// sharing reads what machines have in common once. The machines and their interfaces are read as ever.
type sharing struct {
	Reader
	t *together
}

func (s sharing) VNet(ctx context.Context, id string) (azure.VNet, error) {
	return share(ctx, s.t, "vnet", id, s.Reader.VNet)
}

func (s sharing) NSG(ctx context.Context, id string) (azure.NSG, error) {
	return share(ctx, s.t, "nsg", id, s.Reader.NSG)
}

func (s sharing) LoadBalancer(ctx context.Context, id string) (azure.LoadBalancer, error) {
	return share(ctx, s.t, "lb", id, s.Reader.LoadBalancer)
}

func (s sharing) AdminRules(ctx context.Context, id string) ([]azure.AdminRule, error) {
	return share(ctx, s.t, "admin", id, s.Reader.AdminRules)
}

// share waits for a read that is under way or done, or makes it. A read that failed, or whose caller went away, is made again by
// the next: one machine's bad luck is not that of all.
func share[T any](ctx context.Context, t *together, kind, id string, read func(context.Context, string) (T, error)) (T, error) {
	key := kind + azure.Key(id)
	for {
		t.mu.Lock()
		s := t.reads[key]
		if s == nil {
			s = &shared{done: make(chan struct{}), err: errors.New("not read")} // so it stays if read panics
			t.reads[key] = s
			t.mu.Unlock()
			defer func() {
				if s.err != nil {
					t.mu.Lock()
					delete(t.reads, key)
					t.mu.Unlock()
				}
				close(s.done)
			}()
			v, err := read(ctx, id)
			s.v, s.err = v, err
			return v, err
		}
		t.mu.Unlock()
		select {
		case <-s.done:
		case <-ctx.Done():
			var none T
			return none, ctx.Err()
		}
		if s.err == nil {
			return s.v.(T), nil
		}
	}
}

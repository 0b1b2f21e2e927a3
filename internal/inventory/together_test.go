package inventory_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// counting counts reads by kind and id, and fails the first of some.
type counting struct {
	inventory.Reader
	mu    sync.Mutex
	reads map[string]int
	fail  map[string]error // by kind: the first read of it fails
}

func (c *counting) note(kind, id string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.reads[kind+" "+strings.ToLower(id)]++
	err := c.fail[kind]
	delete(c.fail, kind)
	return err
}

func (c *counting) VNet(ctx context.Context, id string) (azure.VNet, error) {
	if err := c.note("vnet", id); err != nil {
		return azure.VNet{}, err
	}
	return c.Reader.VNet(ctx, id)
}

func (c *counting) NSG(ctx context.Context, id string) (azure.NSG, error) {
	if err := c.note("nsg", id); err != nil {
		return azure.NSG{}, err
	}
	return c.Reader.NSG(ctx, id)
}

func (c *counting) AdminRules(ctx context.Context, id string) ([]azure.AdminRule, error) {
	if err := c.note("admin", id); err != nil {
		return nil, err
	}
	return c.Reader.AdminRules(ctx, id)
}

// What machines that are confirmed together have in common is read once; each sees the same as when it is confirmed alone, and a
// read that failed for one is made again for the next.
func TestTogether(t *testing.T) {
	e := estates.New()
	e.Subscription("5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01", "shop")
	e.Group("shop", "westeurope")
	nsg := e.NSG("front", estates.Allow("ssh", 1000, "22", "10.0.0.0/8"))
	vnet := e.VNet("net", []string{"10.1.0.0/16"}, estates.Subnet{Name: "front", Prefix: "10.1.0.0/24", NSG: nsg})
	var vms []string
	for i := range 12 {
		vms = append(vms, e.VM(fmt.Sprintf("vm-%02d", i), estates.VM{Subnet: vnet + "/subnets/front", PrivateIP: fmt.Sprintf("10.1.0.%d", 4+i)}))
	}
	_, c := start(t, e.JSON())
	for _, broken := range []string{"", "vnet", "nsg", "admin"} {
		r := &counting{Reader: c, reads: map[string]int{}, fail: map[string]error{}}
		if broken != "" {
			r.fail[broken] = errors.New("once")
		}
		ctx := inventory.Together(t.Context())
		var wg sync.WaitGroup
		failed, differs := make(chan string, len(vms)), make(chan string, len(vms))
		for _, id := range vms {
			wg.Go(func() {
				s, err := inventory.Confirm(ctx, r, id, nil, time.Now())
				if err != nil {
					failed <- id
					return
				}
				alone, err := inventory.Confirm(t.Context(), c, id, nil, time.Now())
				if err != nil {
					t.Error(err)
					return
				}
				got, want := find(t, s, id), find(t, alone, id)
				if fmt.Sprint(clean(got)) != fmt.Sprint(clean(want)) || fromInternet(s, got, 22) != fromInternet(alone, want, 22) {
					differs <- fmt.Sprintf("together %+v, alone %+v", got, want)
				}
			})
		}
		wg.Wait()
		close(failed)
		// Without its admin rules a machine is confirmed and its verdict unknown; that is for the one that met the failure.
		if n := len(differs); n > 1 || n > 0 && broken != "admin" {
			t.Errorf("%q failed once: %d machines are seen otherwise: %s", broken, n, <-differs)
		}
		n := len(failed)
		if needed := broken == "vnet" || broken == "nsg"; n > 1 || n > 0 && !needed {
			t.Errorf("%q failed once: %d machines could not be confirmed", broken, n)
		}
		for what, times := range r.reads {
			want := 1
			if broken != "" { // the read itself, and those that its failure cancelled
				want = 2
			}
			if times > want {
				t.Errorf("%q failed once: %s was read %d times, want at most %d", broken, what, times, want)
			}
		}
	}
}

package enforce_test

import (
	"context"
	"log/slog"
	"testing"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/enforce/enforcetest"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
)

// Every back end passes one suite. P1, P2, P3, P4, P9.
func TestConformance(t *testing.T) {
	t.Run("nsg", func(t *testing.T) {
		enforcetest.Run(t, enforcetest.Harness{
			New: func(c *azure.Client, installation string, clk clock.Clock, log *slog.Logger) (enforce.Backend, error) {
				return nsg.New(nsg.Config{Client: c, Installation: installation, Clock: clk, Log: log})
			},
			Sweep: func(ctx context.Context, b enforce.Backend, subscriptions []string, others bool) ([]string, error) {
				found, err := b.(*nsg.Backend).Sweep(ctx, subscriptions, others)
				var names []string
				for _, f := range found {
					names = append(names, f.Rule)
				}
				return names, err
			},
		})
	})
}

package app

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/notify"
)

// routes says which events each channel gets.
func routes(n config.Notify) (out []notify.Route) {
	for _, c := range n.Channels {
		out = append(out, notify.Route{Name: c.Name, Kinds: c.Kinds, All: c.All})
	}
	return out
}

// channels makes what delivers, out of a configuration. It reads files and sends nothing.
func channels(n config.Notify, clk clock.Clock) (out []notify.Channel, err error) {
	for _, c := range n.Channels {
		ch, err := channel(c, clk)
		if err != nil {
			return nil, access.Errorf(access.CodeInvalid, "channel %s of the configuration cannot be used: %v", c.Name, err).
				WithHint("look at notify.channels in the configuration; docs/notifications.md describes each type")
		}
		out = append(out, ch)
	}
	return out, nil
}

func channel(c config.NotifyChannel, clk clock.Clock) (notify.Channel, error) {
	guard := notify.Guard{Allow: c.AllowPrivate}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return nil, err
		}
		if guard.CA, err = x509.SystemCertPool(); err != nil {
			guard.CA = x509.NewCertPool()
		}
		if !guard.CA.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate in PEM form", c.CA)
		}
	}
	switch c.Type {
	case "webhook":
		return notify.NewWebhook(notify.WebhookOptions{Name: c.Name, URL: c.URL, Secret: notify.SecretFile(c.SecretFile), Guard: guard, Clock: clk})
	}
	return nil, fmt.Errorf("there is no type %q", c.Type)
}

// deliver makes what takes notices out of the broker's outbox, and returns how it runs until a context ends.
func deliver(b *broker.Broker, chs []notify.Channel, clk clock.Clock, log *slog.Logger, reg prometheus.Registerer) (func(context.Context), error) {
	o := b.Outbox()
	d, err := notify.New(notify.Config{Outbox: o, Channels: chs, Clock: clk, Log: log, Metrics: notify.NewMetrics(reg, o.Counts, clk)})
	if err != nil {
		return nil, err
	}
	return func(ctx context.Context) {
		done := make(chan struct{})
		go func() {
			defer close(done)
			d.Run(ctx)
		}()
		for ctx.Err() == nil {
			changed := o.Changed()
			d.Wake()
			select {
			case <-changed:
			case <-ctx.Done():
			}
			select { // what is written in a burst is looked for once
			case <-clk.After(50 * time.Millisecond):
			case <-ctx.Done():
			}
		}
		<-done
	}, nil
}

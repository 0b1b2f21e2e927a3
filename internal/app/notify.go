package app

import (
	"context"
	"crypto/x509"
	"fmt"
	"log/slog"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/server"
)

// routes says which events each channel gets.
func routes(n config.Notify) (out []notify.Route) {
	for _, c := range n.Channels {
		out = append(out, notify.Route{Name: c.Name, Kinds: c.Kinds, All: c.All})
	}
	return out
}

// channels makes what delivers, out of a configuration. It reads files and sends nothing.
func channels(n config.Notify, people peopleOf, memory notify.Memory, clk clock.Clock) (out []notify.Channel, err error) {
	for _, c := range n.Channels {
		ch, err := channel(n, c, people, memory, clk)
		if err != nil {
			return nil, channelError(c, err)
		}
		out = append(out, ch)
	}
	return out, nil
}

func channelError(c config.NotifyChannel, err error) error {
	return access.Errorf(access.CodeInvalid, "channel %s of the configuration cannot be used: %v", c.Name, err).
		WithHint("look at notify.channels in the configuration; docs/notifications.md describes each type")
}

func guardOf(c config.NotifyChannel) (notify.Guard, error) {
	guard := notify.Guard{Allow: c.AllowPrivate}
	if c.CA != "" {
		pem, err := os.ReadFile(c.CA)
		if err != nil {
			return guard, err
		}
		if guard.CA, err = x509.SystemCertPool(); err != nil {
			guard.CA = x509.NewCertPool()
		}
		if !guard.CA.AppendCertsFromPEM(pem) {
			return guard, fmt.Errorf("%s holds no certificate in PEM form", c.CA)
		}
	}
	return guard, nil
}

func wordsOf(n config.Notify, c config.NotifyChannel) (*notify.Words, error) {
	var own []notify.Template
	for _, t := range c.Templates {
		own = append(own, notify.Template{Kinds: t.Kinds, Title: t.Title, Body: t.Body})
	}
	return notify.NewWords(n.Links, own)
}

func channel(n config.Notify, c config.NotifyChannel, people peopleOf, memory notify.Memory, clk clock.Clock) (notify.Channel, error) {
	guard, err := guardOf(c)
	if err != nil {
		return nil, err
	}
	words, err := wordsOf(n, c)
	if err != nil {
		return nil, err
	}
	switch c.Type {
	case "webhook":
		return notify.NewWebhook(notify.WebhookOptions{Name: c.Name, URL: c.URL, Secret: notify.SecretFile(c.SecretFile), Guard: guard, Clock: clk})
	case "email":
		o := notify.EmailOptions{Name: c.Name, Server: c.Server, TLS: c.TLS, User: c.User, Password: notify.SecretFile(c.PasswordFile), From: c.From, To: c.To,
			Words: words, Guard: guard, Clock: clk}
		if c.People {
			o.People = people(c.Domains)
		}
		return notify.NewEmail(o)
	case "teams":
		return notify.NewTeams(notify.TeamsOptions{Name: c.Name, URL: notify.SecretFile(c.URLFile), Words: words, Guard: guard, Clock: clk})
	case "slack":
		return notify.NewSlack(notify.SlackOptions{Name: c.Name, API: c.API, Token: notify.SecretFile(c.TokenFile), Channel: c.SlackChannel, Interactive: c.SigningFile != "",
			Words: words, Guard: guard, Memory: memory, Clock: clk})
	}
	return nil, fmt.Errorf("there is no type %q", c.Type)
}

// peopleOf makes what finds the addresses of those whom an event concerns. Names of these domains are addresses by themselves.
type peopleOf func(domains []string) func(ctx context.Context, to []string) (addresses, unknown []string)

// addressBook goes by the addresses in the configuration, and by the names of those who sign in.
func addressBook(cfg Config, b *broker.Broker) peopleOf {
	return func(domains []string) func(context.Context, []string) ([]string, []string) {
		return func(ctx context.Context, to []string) (addresses, unknown []string) {
			for _, name := range b.Addressees(ctx, to) {
				if a := addressOf(cfg.Emails, domains, name); a != "" {
					addresses = append(addresses, a)
				} else {
					unknown = append(unknown, name)
				}
			}
			return addresses, unknown
		}
	}
}

func addressOf(emails map[string]string, domains []string, name string) string {
	for who, a := range emails {
		if access.SamePerson(who, name) {
			return a
		}
	}
	a, err := notify.ParseEmailAddress(name)
	_, domain, _ := strings.Cut(a, "@")
	if err == nil && slices.ContainsFunc(domains, func(d string) bool { return strings.EqualFold(d, domain) }) {
		return a
	}
	return ""
}

// presses is what takes presses of buttons in Slack; nil where no channel has any. Answers go through the guard of the first.
func presses(n config.Notify, ids server.Identities, current func(context.Context, string) (access.Caller, error)) (*server.Slack, error) {
	var out *server.Slack
	var secrets []notify.SecretFile
	for _, c := range n.Channels {
		if c.Type != "slack" || c.SigningFile == "" {
			continue
		}
		secrets = append(secrets, notify.SecretFile(c.SigningFile))
		if out != nil {
			continue
		}
		guard, err := guardOf(c)
		if err != nil {
			return nil, channelError(c, err)
		}
		words, err := wordsOf(n, c)
		if err != nil {
			return nil, channelError(c, err)
		}
		out = &server.Slack{Responder: notify.NewSlackResponder(c.API, guard), Words: words, Identities: ids, Current: current}
	}
	if out == nil {
		return nil, nil
	}
	var err error
	if out.Verifier, err = notify.NewSlackVerifier(secrets); err != nil {
		return nil, access.Errorf(access.CodeInvalid, "a signing secret of Slack cannot be used: %v", err).WithHint("look at signing_secret_file under notify.channels")
	}
	return out, nil
}

// deliver makes what takes notices out of the broker's outbox, and returns how it runs until a context ends.
func deliver(o *broker.Outbox, chs []notify.Channel, clk clock.Clock, log *slog.Logger, reg prometheus.Registerer) (func(context.Context), error) {
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

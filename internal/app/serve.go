package app

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
)

// Logger writes structured lines as the configuration says.
func Logger(c config.Log, w io.Writer) *slog.Logger {
	o := &slog.HandlerOptions{Level: c.SlogLevel()}
	if strings.EqualFold(c.Format, "json") {
		return slog.New(slog.NewJSONHandler(w, o))
	}
	return slog.New(slog.NewTextHandler(w, o))
}

// Serve runs the server of a configuration until ctx ends, which is no error.
func Serve(ctx context.Context, c config.Config, version string, clk clock.Clock, stderr io.Writer) error {
	log := Logger(c.Log, stderr)
	for _, w := range c.Warnings {
		log.Warn(w)
	}
	cfg, err := FromConfig(c, version)
	if err != nil {
		return err
	}
	if st, err := os.Stat(c.Audit.SigningKeyFile); err == nil && runtime.GOOS != "windows" && st.Mode().Perm()&0o077 != 0 {
		log.Warn("the key that signs the audit log's checkpoints can be read by others than the server's account", "file", c.Audit.SigningKeyFile, "mode", st.Mode().Perm().String())
	}
	az, err := AzureClient(c.Azure, clk, log)
	if err != nil {
		return err
	}
	a, err := Start(ctx, cfg, Deps{Azure: az, Clock: clk, Log: log})
	if errors.As(err, new(storeError)) {
		withoutStore(ctx, cfg, az, clk, log)
	}
	if err != nil {
		return err
	}
	log.Info("serving", "url", a.URL, "installation", cfg.Installation, "version", version, "database", cfg.Database)
	if h := a.Broker.Hold(); h != "" {
		log.Warn("nothing opens until an admin confirms with: curfew reconcile --resume", "why", h)
	}
	err = a.Wait()
	log.Info("ended")
	return err
}

// withoutStore removes what is past its end before a server without a database gives up: closing goes on, each time that somebody
// or something starts it again (P2).
func withoutStore(ctx context.Context, cfg Config, az *azure.Client, clk clock.Clock, log *slog.Logger) {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	found, _, failed, err := Sweep(ctx, az, cfg.Installation, cfg.Subscriptions, clk, false)
	for _, f := range found {
		if f.Over && f.Failed == "" {
			log.Warn("the database cannot be used; an opening past its end was removed without it", "nsg", f.NSG, "rule", f.Rule)
		}
	}
	if err != nil {
		failed = append(failed, azure.UserError(err).Message)
	}
	for _, why := range failed {
		log.Error("the database cannot be used, and what is past its end could not be removed without it", "error", why)
	}
}

// Overdue is an opening of an installation's that a survey found.
type Overdue struct {
	NSG, Rule string
	End       time.Time
	Over      bool // past its end; removed, unless it was a dry run or Failed says why not
	Failed    string
}

// Survey reads every place in the subscriptions and returns the openings of the installation. It needs no store. Errors are fit to
// show; what was read is returned with them.
func Survey(ctx context.Context, az *azure.Client, installation string, subscriptions []string, clk clock.Clock) (found []Overdue, places int, failed []string, err error) {
	b, err := nsg.New(nsg.Config{Client: az, Installation: installation, Clock: clk})
	if err != nil {
		return nil, 0, nil, err
	}
	subs, err := Subscriptions(ctx, az, subscriptions)
	if err != nil {
		return nil, 0, nil, err
	}
	now := clk.Now()
	for _, s := range subs {
		held, err := b.Survey(ctx, s)
		if err != nil {
			failed = append(failed, azure.UserError(err).Message)
			continue
		}
		for _, h := range held {
			places++
			for _, r := range h.Rules {
				if r.Kind == enforce.KindAllow && r.Installation == installation {
					found = append(found, Overdue{NSG: h.Place, Rule: r.Name, End: r.End, Over: !now.Before(r.End)})
				}
			}
		}
	}
	return found, places, failed, nil
}

// Sweep removes the openings that a survey finds past their end (P2), or only names them in a dry run.
func Sweep(ctx context.Context, az *azure.Client, installation string, subscriptions []string, clk clock.Clock, dryRun bool) ([]Overdue, int, []string, error) {
	found, places, failed, err := Survey(ctx, az, installation, subscriptions, clk)
	if err != nil || dryRun {
		return found, places, failed, err
	}
	b, err := nsg.New(nsg.Config{Client: az, Installation: installation, Clock: clk})
	if err != nil {
		return found, places, failed, err
	}
	subs, err := Subscriptions(ctx, az, subscriptions)
	if err != nil {
		return found, places, failed, err
	}
	swept, err := b.Sweep(ctx, subs, false)
	why := map[string]string{}
	for _, s := range swept {
		if s.Err != nil {
			why[azure.Key(s.Place)+"/"+s.Rule] = azure.UserError(s.Err).Message
		}
	}
	for i, f := range found {
		if msg, ok := why[azure.Key(f.NSG)+"/"+f.Rule]; ok {
			found[i].Failed = msg
			failed = append(failed, azure.IDName(f.NSG)+"/"+f.Rule+" could not be removed: "+msg)
		}
	}
	if err != nil && len(failed) == 0 {
		failed = append(failed, azure.UserError(err).Message)
	}
	return found, places, failed, nil
}

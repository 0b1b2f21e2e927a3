package main

import (
	"context"
	"net/netip"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/app"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/cli"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/demo"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
	"github.com/curfew-jit/curfew/internal/setup"
	"github.com/curfew-jit/curfew/internal/sim/estates"
	"github.com/curfew-jit/curfew/internal/sim/packets"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

// local wires the commands that run in this process.
func local(e cli.Env) cli.Local {
	return cli.Local{
		Demo: func(ctx context.Context, o cli.DemoOptions) error {
			return demo.Run(ctx, demo.Options{Listen: o.Listen, AzureListen: o.AzureListen, IssuerListen: o.IssuerListen, SlackListen: o.SlackListen, Dir: o.Dir, Packets: o.Packets, JSON: o.JSON, Program: e.Program,
				Version: e.Version, Out: e.Stdout, Err: e.Stderr, Clock: e.Clock})
		},
		Sim: func(ctx context.Context, o cli.SimOptions) error {
			return demo.RunSim(ctx, demo.SimOptions{Listen: o.Listen, Dir: o.Dir, Estate: o.Estate, Packets: o.Packets, Large: estates.LargeOptions{VMs: o.VMs, Subscriptions: o.Subscriptions, NSGs: o.NSGs, Rules: o.Rules, PublicEvery: o.PublicEvery}, Seed: o.Seed, Faults: o.Faults, Proxy: o.Proxy,
				Identity: o.Identity, JSON: o.JSON, Program: e.Program, Out: e.Stdout, Err: e.Stderr, Clock: e.Clock})
		},
		Serve: func(ctx context.Context, o cli.ServeOptions) error {
			s := config.Sources{File: o.Config, Getenv: e.Getenv}
			if o.Listen != "" {
				s.Flags = map[string]string{"listen": o.Listen}
			}
			c, err := config.Load(s)
			if err != nil {
				return err
			}
			return app.Serve(ctx, c, e.Version, e.Clock, e.Stderr)
		},
		Sweep: func(ctx context.Context, o cli.SweepOptions) (cli.SweepResult, error) { return sweep(ctx, e, o) },
		Standalone: func(ctx context.Context, o cli.StandaloneOptions) (cli.Standalone, error) {
			return alone(ctx, e, o)
		},
		Collect:  func(ctx context.Context, o cli.ScanSource) (cli.Collected, error) { return collected(ctx, e, o) },
		Fix:      func(ctx context.Context, o cli.FixSource) (cli.Fixer, error) { return fixing(ctx, e, o) },
		VerifyDB: verifyDB,
		AzureCheck: func(ctx context.Context, o cli.AzureCheckOptions) ([]cli.AzureCheckItem, error) {
			az, _, err := azureOf(e, o.ScanSource)
			if err != nil {
				return nil, err
			}
			all, err := setup.Check(ctx, az, o.Scopes, o.Duties)
			out := make([]cli.AzureCheckItem, len(all))
			for i, it := range all {
				out[i] = cli.AzureCheckItem{Scope: it.Scope, Check: it.Check, State: string(it.State), Detail: it.Detail, Lacks: it.Lacks, Next: it.Next}
			}
			return out, err
		},
		Packets: func(ctx context.Context, server string, source netip.Prefix) (*cli.PacketsWay, error) {
			return way(ctx, e.Getenv("CURFEW_PACKETS"), server, source)
		},
	}
}

// way is how ssh connects where a simulator on this machine carries real packets: from the source, in a namespace of the run that is
// named or that serves the server.
func way(ctx context.Context, run, server string, source netip.Prefix) (*cli.PacketsWay, error) {
	p, err := packets.Find(ctx, server, run)
	if err != nil || p == nil {
		return nil, err
	}
	at := source.Addr()
	if !source.IsSingleIP() { // the first address of a range is no machine's
		at = source.Masked().Addr().Next()
	}
	from, err := p.Client(ctx, at)
	if err != nil {
		return nil, err
	}
	return &cli.PacketsWay{Prefix: from.Prefix, SSH: from.SSH, User: from.User}, nil
}

func sweep(ctx context.Context, e cli.Env, o cli.SweepOptions) (cli.SweepResult, error) {
	r := cli.SweepResult{DryRun: o.DryRun, Removed: []cli.SweptRule{}, Kept: []cli.SweptRule{}, Failed: []string{}}
	c := config.Default()
	if o.Config != "" {
		var err error
		if c, err = config.Load(config.Sources{File: o.Config, Getenv: e.Getenv}); err != nil {
			return r, err
		}
	}
	if o.Installation == "" {
		o.Installation = c.Installation
	}
	if err := nsg.CheckInstallation(o.Installation); err != nil {
		return r, access.Errorf(access.CodeInvalid, "%v", err)
	}
	if len(o.Subscriptions) == 0 {
		o.Subscriptions = c.Azure.Subscriptions
	}
	az, err := app.AzureClient(c.Azure, e.Clock, app.Logger(config.Log{Level: "error"}, e.Stderr))
	if err != nil {
		return r, err
	}
	found, places, failed, err := app.Sweep(ctx, az, o.Installation, o.Subscriptions, e.Clock, o.DryRun)
	r.Places, r.Failed = places, append(r.Failed, failed...)
	for _, f := range found {
		s := cli.SweptRule{NSG: f.NSG, Rule: f.Rule, Ends: f.End}
		switch {
		case f.Failed != "":
		case f.Over:
			r.Removed = append(r.Removed, s)
		default:
			r.Kept = append(r.Kept, s)
		}
	}
	return r, err
}

func verifyDB(ctx context.Context, database string, older []audit.Checkpoint) (v cli.VerifyResult, err error) {
	log, err := sqlite.OpenLog(ctx, database)
	if err != nil {
		return v, err
	}
	defer log.Close()
	now, cerr := log.Checkpoint()
	rep, err := log.Verify(ctx, older...)
	if err == nil {
		err = cerr
	}
	return cli.Verified(database, now, rep, err)
}

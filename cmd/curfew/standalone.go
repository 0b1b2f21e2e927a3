package main

import (
	"context"
	"os/user"

	"github.com/curfew-jit/curfew/internal/app"
	"github.com/curfew-jit/curfew/internal/cli"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
	"github.com/curfew-jit/curfew/internal/standalone"
)

// alone opens a run without a server: with the Azure of a configuration, of the command line, or Microsoft's public one, and as the
// default credential finds the caller (AZURE_… variables, az login).
func alone(ctx context.Context, e cli.Env, o cli.StandaloneOptions) (cli.Standalone, error) {
	c := config.Default()
	if o.Config != "" {
		var err error
		if c, err = config.Load(config.Sources{File: o.Config, Getenv: e.Getenv}); err != nil {
			return nil, err
		}
	}
	if o.Cloud != "" {
		c.Azure.Cloud = o.Cloud
	}
	if o.CA != "" {
		c.Azure.CA = o.CA
	}
	if o.Endpoint != "" {
		if err := elsewhere(&c.Azure, e.Getenv, o.Endpoint); err != nil {
			return nil, err
		}
	}
	if o.Installation == "" {
		o.Installation = c.Installation
	}
	if len(o.Subscriptions) == 0 {
		o.Subscriptions = c.Azure.Subscriptions
	}
	log := app.Logger(config.Log{Level: "error"}, e.Stderr)
	az, err := app.AzureClient(c.Azure, e.Clock, log)
	if err != nil {
		return nil, err
	}
	by := "standalone"
	if u, err := user.Current(); err == nil && u.Username != "" {
		by = u.Username
	}
	s, err := standalone.Open(ctx, standalone.Config{Azure: az, Installation: o.Installation, Subscriptions: o.Subscriptions, Undo: o.Undo, ReadOnly: o.ReadOnly,
		By: by, Band: nsg.Band{Start: c.Band.First, End: c.Band.Last}, Clock: e.Clock, Log: log})
	if err != nil {
		return nil, err
	}
	return s, nil
}

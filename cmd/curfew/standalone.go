package main

import (
	"context"
	"os/user"

	"github.com/curfew-jit/curfew/internal/access"
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
		for _, name := range []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"} {
			if e.Getenv(name) == "" {
				return nil, access.Errorf(access.CodeUnauthenticated, "%s is not set, and az login knows Microsoft's clouds alone", name).
					WithHint("set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET for %s", o.Endpoint)
			}
		}
		c.Azure.Cloud, c.Azure.Endpoint, c.Azure.Authority = "custom", o.Endpoint, o.Endpoint
		c.Azure.Audience = "https://management.azure.com/"
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

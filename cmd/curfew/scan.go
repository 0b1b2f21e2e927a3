package main

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/app"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/cli"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/collect"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// resumable is how old a kept reading may be.
const resumable = time.Hour

// azureOf makes the client that a configuration or the command line names.
func azureOf(e cli.Env, o cli.ScanSource) (*azure.Client, config.Config, error) {
	c := config.Default()
	if o.Config != "" {
		var err error
		if c, err = config.Load(config.Sources{File: o.Config, Getenv: e.Getenv}); err != nil {
			return nil, c, err
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
			return nil, c, err
		}
	}
	az, err := app.AzureClient(c.Azure, e.Clock, app.Logger(config.Log{Level: "error"}, e.Stderr))
	return az, c, err
}

// elsewhere makes the configuration that of an Azure of one's own, in which the environment has to say who is calling.
func elsewhere(c *config.Azure, getenv func(string) string, endpoint string) error {
	for _, name := range []string{"AZURE_TENANT_ID", "AZURE_CLIENT_ID", "AZURE_CLIENT_SECRET"} {
		if getenv(name) == "" {
			return access.Errorf(access.CodeUnauthenticated, "%s is not set, and az login knows Microsoft's clouds alone", name).
				WithHint("set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET for %s", endpoint)
		}
	}
	c.Cloud, c.Endpoint, c.Authority = "custom", endpoint, endpoint
	c.Audience = "https://management.azure.com/"
	return nil
}

// collected reads an estate, from a file or from Azure.
func collected(ctx context.Context, e cli.Env, o cli.ScanSource) (cli.Collected, error) {
	if o.File != "" {
		return fromFile(e, o.File)
	}
	az, c, err := azureOf(e, o)
	if err != nil {
		return cli.Collected{}, err
	}
	if len(o.Subscriptions) == 0 && len(o.ManagementGroups) == 0 {
		o.Subscriptions = c.Azure.Subscriptions
	}
	cfg := collect.Config{Client: az, Cloud: c.Azure.Cloud, Endpoint: c.Azure.Endpoint, Subscriptions: o.Subscriptions, ManagementGroups: o.ManagementGroups,
		ViaARM: o.ViaARM, Clock: e.Clock, Note: o.Note}
	if o.Resume != "" {
		cfg.State = collect.NewState(o.Resume, resumable)
	}
	if o.Progress != nil {
		cfg.Progress = func(p collect.Progress) {
			o.Progress(cli.ScanProgress{Done: p.Rows, Total: p.RowsTotal, Left: p.Left})
		}
	}
	es, src, err := app.Collect(ctx, cfg)
	if err != nil {
		return cli.Collected{}, err
	}
	names := map[string]string{}
	if subs, err := az.Subscriptions(ctx); err == nil { // only so that filters know them by name
		for _, s := range subs {
			names[strings.ToLower(s.SubscriptionID)] = s.DisplayName
		}
	}
	return cli.Collected{Estate: es, Source: src, Names: names}, nil
}

func fromFile(e cli.Env, name string) (cli.Collected, error) {
	var r io.Reader = e.Stdin
	if name != "-" {
		f, err := os.Open(name)
		if err != nil {
			field := access.Errorf(access.CodeInvalid, "the export cannot be read: %v", err)
			field.Field = "from-file"
			return cli.Collected{}, field.WithHint(`it is a file {"resources":[…]} of resources as Azure returns them`)
		}
		defer f.Close()
		r = f
	}
	es, err := estate.Read(r)
	if err != nil {
		field := access.Errorf(access.CodeInvalid, "%s is no export that can be judged: %v", name, err)
		field.Field = "from-file"
		return cli.Collected{}, field.WithHint(`it must be one JSON object {"resources":[…]} of resources as GET or Resource Graph return them`)
	}
	return cli.Collected{Estate: es, Source: scan.Source{Kind: "file", File: name}}, nil
}

// replaceFile writes a file beside the old one and puts it in its place, so that there is never half a file.
func replaceFile(name string, data []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = os.Remove(f.Name())
		}
	}()
	_, err = f.Write(data)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Chmod(f.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

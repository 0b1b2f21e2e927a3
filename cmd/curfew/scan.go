package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/app"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/cli"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
	"github.com/curfew-jit/curfew/internal/fix"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/collect"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/standalone"
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

// collected reads an estate, from a file or from Azure. What comes after holds most of what it allocates, and what is garbage for a moment
// would double that on a laptop: from then on the collector runs two and a half times as often as usual, for a tenth more processor.
func collected(ctx context.Context, e cli.Env, o cli.ScanSource) (cli.Collected, error) {
	defer debug.SetGCPercent(40)
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

// replaceFile writes a file beside the old one, as it comes, and puts it in its place once it is whole, so that there is never half a
// file and no report has to be held in memory. What is no file, a pipe or a device, is written to as it is.
func replaceFile(name string, write func(io.Writer) error) (err error) {
	if i, err := os.Stat(name); err == nil && !i.Mode().IsRegular() {
		f, err := os.OpenFile(name, os.O_WRONLY, 0)
		if err != nil {
			return err
		}
		return errors.Join(write(f), f.Close())
	}
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close() // again, where it is closed
			_ = os.Remove(f.Name())
		}
	}()
	if err = write(f); err != nil {
		return err
	}
	if err = errors.Join(f.Sync(), f.Close()); err != nil {
		return err
	}
	if err = os.Chmod(f.Name(), 0o644); err != nil {
		return err
	}
	return os.Rename(f.Name(), name)
}

// fixer is a fix.Fixer with the run that switches just-in-time access on.
type fixer struct {
	fix     *fix.Fixer
	session *standalone.Session
	plan    fix.Plan
}

func changes(in []fix.Change) (out []cli.FixChange) {
	for _, c := range in {
		out = append(out, cli.FixChange{Kind: c.Kind, Rule: c.Rule, Priority: c.Priority, Access: c.Access, Summary: c.Summary, Why: c.Why})
	}
	return out
}

func left(in []fix.Left) (out []cli.FixLeft) {
	for _, l := range in {
		out = append(out, cli.FixLeft(l))
	}
	return out
}

func kept(in []fix.Kept) (out []cli.FixKept) {
	for _, k := range in {
		out = append(out, cli.FixKept(k))
	}
	return out
}

func ended(s fix.StepOutcome) cli.FixStepOutcome {
	return cli.FixStepOutcome{Step: s.Step, Title: s.Title, State: string(s.State), Writes: s.Writes, Unsure: s.Unsure, Changes: changes(s.Changes), Notes: s.Notes, Error: s.Error, Hint: s.Hint}
}

// Plan implements cli.Fixer.
func (f *fixer) Plan(ctx context.Context, findings []scan.Finding, o cli.FixOptions) (cli.FixPlan, error) {
	var err error
	f.plan, err = f.fix.Plan(ctx, findings, fix.Options{ShutVirtualNetwork: o.ShutVirtualNetwork, ReplaceRules: o.ReplaceRules, RemoveDefender: o.RemoveDefender,
		Backend: fix.Backend(o.Backend), JITMax: o.JITMax, JITFrom: o.JITFrom, JITLimit: o.JITLimit, Delay: o.Delay, LeastDelay: o.LeastDelay, Upgrade: o.Upgrade,
		Unavailable: o.Unavailable, Ports: o.Ports})
	if err != nil {
		return cli.FixPlan{}, err
	}
	p := cli.FixPlan{At: f.plan.At, Steps: []cli.FixStep{}, Left: left(f.plan.Left), Passes: f.plan.Passes, Notes: f.plan.Notes, Digest: f.plan.Digest}
	for _, s := range f.plan.Steps {
		p.Steps = append(p.Steps, cli.FixStep{ID: s.ID, Kind: string(s.Kind), Resource: s.Resource, Title: s.Title, Findings: s.Findings, Changes: changes(s.Changes),
			Writes: s.Writes, Keeps: s.Keeps, Loses: s.Loses, Notes: s.Notes})
	}
	return p, nil
}

// Apply implements cli.Fixer.
func (f *fixer) Apply(ctx context.Context, progress func(cli.FixStepOutcome)) (cli.FixOutcome, error) {
	o, err := f.fix.Apply(ctx, f.plan, func(s fix.StepOutcome) { progress(ended(s)) })
	out := cli.FixOutcome{Steps: []cli.FixStepOutcome{}, Fixed: o.Fixed, Open: left(o.Open), Judged: o.Judged, Unread: o.Unread, Interrupted: o.Interrupted, Writes: o.Writes, Undo: o.Undo, Complete: o.Complete()}
	for _, s := range o.Steps {
		out.Steps = append(out.Steps, ended(s))
	}
	return out, err
}

// Undo implements cli.Fixer.
func (f *fixer) Undo(ctx context.Context, dryRun bool) (cli.FixUndo, error) {
	o, err := f.fix.Undo(ctx, dryRun)
	out := cli.FixUndo{Done: []cli.FixUndone{}, Kept: kept(o.Kept), Failed: kept(o.Failed), Writes: o.Writes, DryRun: o.DryRun, Interrupted: o.Interrupted}
	for _, d := range o.Done {
		out.Done = append(out.Done, cli.FixUndone(d))
	}
	return out, err
}

// Close implements cli.Fixer.
func (f *fixer) Close() {
	if f.session != nil {
		f.session.Close()
	}
}

// fixing opens what puts findings right. It reads from the resource providers alone: Resource Graph may be behind.
func fixing(ctx context.Context, e cli.Env, o cli.FixSource) (cli.Fixer, error) {
	az, c, err := azureOf(e, o.ScanSource)
	if err != nil {
		return nil, err
	}
	by := "fix"
	if u, err := user.Current(); err == nil && u.Username != "" {
		by = u.Username
	}
	out := &fixer{}
	cfg := fix.Config{Azure: az, Undo: o.Undo, By: by, Clock: e.Clock,
		Read: func(ctx context.Context, subscriptions []string) (*estate.Estate, error) {
			es, _, err := app.Collect(ctx, collect.Config{Client: az, Cloud: c.Azure.Cloud, Endpoint: c.Azure.Endpoint, Subscriptions: subscriptions, ViaARM: true, Clock: e.Clock})
			return es, err
		},
		Judge: func(es *estate.Estate) []scan.Finding {
			j := o.Judge
			j.All, j.Now = true, e.Clock.Now()
			return scan.Scan(es, j).Findings
		}}
	if o.Protect {
		if o.Installation == "" {
			o.Installation = c.Installation
		}
		undo := ""
		if o.Undo != "" {
			undo = o.Undo + ".protect"
		}
		out.session, err = standalone.Open(ctx, standalone.Config{Azure: az, Installation: o.Installation, Undo: undo, By: by, Clock: e.Clock,
			Subscriptions: c.Azure.Subscriptions, Band: nsg.Band{Start: c.Band.First, End: c.Band.Last}, Log: app.Logger(config.Log{Level: "error"}, e.Stderr)})
		if err != nil {
			return nil, err
		}
		cfg.Protect = out.session
	}
	if out.fix, err = fix.New(cfg); err != nil {
		out.Close()
		return nil, err
	}
	return out, nil
}

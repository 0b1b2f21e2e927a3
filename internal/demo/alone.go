package demo

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// SimOptions of RunSim.
type SimOptions struct {
	Listen   string
	Dir      string               // "": nothing is kept
	Estate   string               // file; "": the demo's
	Packets  bool                 // machines are network namespaces
	Large    estates.LargeOptions // with machines: an estate of so many instead, which is not kept
	Seed     uint64               // of etags, ids and chances
	Faults   string               // file with a schedule of faults
	Proxy    string               // address of a proxy for clients with hard-coded hosts
	Identity string               // address of managed-identity endpoints over plain HTTP
	JSON     bool
	Program  string
	Out, Err io.Writer
	Clock    clock.Clock
}

// RunSim serves the simulated Azure alone until ctx ends, which is no error.
func RunSim(ctx context.Context, o SimOptions) (err error) {
	log := slog.New(slog.NewTextHandler(o.Err, &slog.HandlerOptions{Level: slog.LevelError}))
	dir, remove, err := directory(o.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	schedule, err := faults(o.Faults)
	if err != nil {
		return err
	}
	first, err := estate(o.Estate)
	if err != nil {
		return err
	}
	loaded := func() {}
	if o.Large.VMs > 0 { // half as much again as the estate itself takes: the collector works harder, and the machine is not filled
		debug.SetMemoryLimit(max(1200<<20, o.Large.Bytes()))
		usual := debug.SetGCPercent(400) // while it loads, nearly all of what is new stays
		loaded = func() { debug.SetGCPercent(usual) }
	}
	az, err := startLarge(ctx, o.Listen, "listen", dir, first, o.Seed, o.Large, o.Clock, log)
	loaded()
	if err != nil {
		return err
	}
	defer az.close()
	more, err := az.others(ctx, o)
	if err != nil {
		return err
	}
	if err := az.keep.sim.Arm(schedule); err != nil {
		return access.Errorf(access.CodeInvalid, "the faults in %s: %v", o.Faults, err)
	}
	net, err := carry(ctx, o.Packets, az, dir, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, net.close()) }()
	run, err := net.serves("")
	if err != nil {
		return err
	}
	conf, err := writeServe(dir, az)
	if err != nil {
		return access.Errorf(access.CodeUnavailable, "the configuration for a server could not be written: %v", err)
	}
	if o.JSON {
		line := map[string]string{"azure": az.URL, "ca": az.CA, "dir": dir, "config": conf, "tenant": sim.TenantID, "client_id": sim.ClientID, "client_secret": sim.ClientSecret}
		if run != "" {
			line["packets"] = run
		}
		maps.Copy(line, more)
		b, err := json.Marshal(line)
		if err != nil {
			return err
		}
		if _, err := o.Out.Write(append(b, '\n')); err != nil {
			return err
		}
	} else {
		run, at := o.Program, quoteDir(dir)
		fmt.Fprintf(o.Out, `A simulated Azure. This is NOT for production: its credentials are public.

  azure    %s  (GET /_sim/ describes faults, time and the outside hand)
  ca       %s
  tenant   %s
  client   %s, secret %s

A server against it, in another terminal; kill it and start it again as you like:

  %s serve --config %s/serve.yaml
  %s --token-file %s/tokens/admin vm list
  %s --token-file %s/tokens/requester request create web-01 --from 203.0.113.9 --reason INC-4711
`, az.URL, az.CA, sim.TenantID, sim.ClientID, sim.ClientSecret, run, at, run, at, run, at)
		for _, what := range slices.Sorted(maps.Keys(more)) {
			fmt.Fprintf(o.Out, "%s at %s\n", what, more[what])
		}
	}
	if run != "" && !o.JSON {
		fmt.Fprintf(o.Out, "\nPackets are real. For the command line, as root: export CURFEW_PACKETS=%s\n", run)
	}
	<-ctx.Done()
	return nil
}

// faults reads a schedule; without a file there are none.
func faults(file string) (sim.Schedule, error) {
	if file == "" {
		return sim.Schedule{}, nil
	}
	b, err := os.ReadFile(file)
	if err != nil {
		return sim.Schedule{}, access.Errorf(access.CodeInvalid, "the faults cannot be read: %v", err)
	}
	s, err := sim.ParseSchedule(b)
	if err != nil {
		return s, access.Errorf(access.CodeInvalid, "%s: %v", file, err).WithHint("the fields are those of GET /_sim/ on the simulator, with after, for, every and probability")
	}
	return s, nil
}

// others starts what was asked for beside the simulated Azure itself: a proxy, managed identity.
func (s *simulated) others(ctx context.Context, o SimOptions) (map[string]string, error) {
	out := map[string]string{}
	failed := func(option string, err error) error {
		return access.Errorf(access.CodeUnavailable, "%v", err).WithHint("choose another address with --%s, for example --%s 127.0.0.1:0", option, option)
	}
	if o.Proxy != "" {
		p, err := s.keep.sim.ServeProxy(ctx, o.Proxy, sim.ProxyOptions{Certificate: &s.cert, Handler: s.keep.handler(s.keep.sim.Handler())})
		if err != nil {
			return nil, failed("proxy-listen", err)
		}
		out["proxy"] = p.URL
	}
	if o.Identity != "" {
		p, err := s.keep.sim.ServeIdentity(ctx, o.Identity)
		if err != nil {
			return nil, failed("identity-listen", err)
		}
		out["identity"] = p.URL
	}
	return out, nil
}

// writeServe writes a configuration for a server against the simulator, with a token for each account. Tokens that are there stay.
func writeServe(dir string, az *simulated) (string, error) {
	type person struct {
		Name  string        `yaml:"name"`
		Roles []access.Role `yaml:"roles"`
		Hash  string        `yaml:"token_sha256"`
	}
	var people []person
	tokens := filepath.Join(dir, "tokens")
	if err := os.MkdirAll(tokens, 0o700); err != nil {
		return "", err
	}
	for _, a := range Accounts() {
		if len(a.Roles) == 0 { // a configuration has nobody who may do nothing
			continue
		}
		file := filepath.Join(tokens, a.Name)
		b, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			b = []byte(rand.Text() + "\n")
			err = writeFile(file, b, 0o600)
		}
		if err != nil {
			return "", err
		}
		sum := sha256.Sum256([]byte(strings.TrimSpace(string(b))))
		people = append(people, person{a.Name, a.Roles, hex.EncodeToString(sum[:])})
	}
	secret := filepath.Join(dir, "client-secret")
	if err := writeFile(secret, []byte(sim.ClientSecret+"\n"), 0o600); err != nil {
		return "", err
	}
	b, err := yaml.Marshal(map[string]any{
		"installation": Installation, "data_dir": filepath.Join(dir, "data"),
		"azure": map[string]any{"cloud": "custom", "endpoint": az.URL, "audience": "https://management.azure.com/", "authority": az.URL, "ca": az.CA, "tenant": sim.TenantID,
			"credential": map[string]any{"kind": "client-secret", "client_id": sim.ClientID, "client_secret_file": secret}},
		"people": people, "policy": named(Policy()),
	})
	if err != nil {
		return "", err
	}
	file := filepath.Join(dir, "serve.yaml")
	return file, writeFile(file, append([]byte("# A server against the simulated Azure; written anew each time that the simulator starts.\n"), b...), 0o600)
}

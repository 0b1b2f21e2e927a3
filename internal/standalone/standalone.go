// Package standalone protects machines from somebody's own computer, with that person's own Azure login and without a server. It is
// a broker in this process, whose store is an undo file, or memory where none was named, and whose enforcer writes each place once.
//
// Trusted: the undo file, and the login. Not trusted: that this run is the only one. What stands in Azure under this installation's
// name and is not asked about is taken as wanted; what other installations wrote is left alone and told.
package standalone

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/enforce/nsg"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/policy"
	"github.com/curfew-jit/curfew/internal/server"
)

// DefaultInstallation is the name in the rules where none is given.
const DefaultInstallation = "local"

// inventoryAge is how old the list of machines may be within one run. What is changed is confirmed in any case.
const inventoryAge = 10 * time.Minute

// Config says what to work on. Azure is needed.
type Config struct {
	Azure         *azure.Client
	Installation  string   // "": DefaultInstallation
	Subscriptions []string // none: all that the login sees
	Undo          string   // path of the undo file; "": nothing is kept, and replacing rules of others is refused (P3)
	ReadOnly      bool     // the undo file is read and not locked; Protect refuses
	By            string   // who does it, for the undo file
	Band          nsg.Band // zero: the back end's default
	Clock         clock.Clock
	Log           *slog.Logger
}

// Session is one run. Its methods are those of internal/client for machines and protection, and may be called one after another.
type Session struct {
	cfg     Config
	record  *record
	az      *client
	inv     *confirmed
	backend *backend
	broker  *broker.Broker
	caller  access.Caller

	mu       sync.Mutex
	off      bool
	named    map[string]machine // by VM key: those that are asked about
	notes    []string
	fresh    int // notes from here on have not been told
	failed   map[string]error
	synced   map[string]bool
	problems []enforce.Problem
}

// machine is one that was named.
type machine struct {
	vm    access.VM
	addrs []netip.Addr // its own, and those that its record names
}

// Open reads the undo file, if one is named. It does not call Azure.
func Open(ctx context.Context, cfg Config) (*Session, error) {
	if cfg.Azure == nil {
		return nil, errors.New("standalone needs a client for Azure")
	}
	if cfg.Installation == "" {
		cfg.Installation = DefaultInstallation
	}
	if err := nsg.CheckInstallation(cfg.Installation); err != nil {
		return nil, err
	}
	if cfg.Clock == nil {
		cfg.Clock = clock.System{}
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.By == "" {
		cfg.By = "standalone"
	}
	rec, err := openRecord(cfg.Undo, cfg.Installation, !cfg.ReadOnly, cfg.Clock.Now)
	if err != nil {
		return nil, err
	}
	s := &Session{cfg: cfg, record: rec, named: map[string]machine{},
		az:     &client{Client: cfg.Azure, installation: cfg.Installation, record: rec, last: map[string]azure.NSG{}},
		inv:    &confirmed{Live: inventory.NewLive(cfg.Azure, cfg.Clock, cfg.Subscriptions, inventoryAge), by: map[string]*inventory.Snapshot{}},
		caller: access.Caller{Name: cfg.By, Roles: []access.Role{access.Admin}}}
	b, err := nsg.New(nsg.Config{Client: s.az, Installation: cfg.Installation, Band: cfg.Band, Clock: cfg.Clock, Log: cfg.Log})
	if err == nil {
		s.backend = &backend{Backend: b, s: s}
		s.broker, err = broker.New(ctx, broker.Config{Installation: cfg.Installation, Store: rec, Clock: cfg.Clock, Inventory: s.inv,
			Backend: s.backend, Policy: func() broker.Policy { return &policy.Set{} }, Log: cfg.Log})
	}
	if err != nil {
		rec.close()
		return nil, err
	}
	s.broker.SetEnforcer(s)
	return s, nil
}

// Close gives the undo file back to other runs.
func (s *Session) Close() { s.record.close() }

// Notes returns what has to be said besides a plan, each once, since it was called last.
func (s *Session) Notes() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := slices.Clone(s.notes[s.fresh:])
	s.fresh = len(s.notes)
	return out
}

func (s *Session) note(format string, args ...any) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if n := fmt.Sprintf(format, args...); !slices.Contains(s.notes, n) {
		s.notes = append(s.notes, n)
	}
}

func (s *Session) noteAll(said []string) {
	for _, n := range said {
		s.note("%s", n)
	}
}

func (s *Session) convert() server.Converter { return server.Converter{Clock: s.cfg.Clock} }

// snapshot reads all machines, once in a run. Its error is Azure's own: most likely that nobody is logged in.
func (s *Session) snapshot(ctx context.Context) (*inventory.Snapshot, error) {
	snap, err := s.inv.Snapshot(ctx)
	if err != nil {
		return nil, ownWords(err)
	}
	for _, p := range snap.Problems {
		s.note("not everything could be read: %s", p)
	}
	return snap, nil
}

// ownWords says what to do where it is the caller's own login, or own options, that is wrong.
func ownWords(err error) error {
	e := azure.UserError(err)
	var cert *tls.CertificateVerificationError
	switch {
	case errors.As(err, &cert):
		return access.Errorf(access.CodeAzureUnavailable, "Azure's certificate is not trusted here: %v", cert.Err).WithHint("name the authority that signed it, with --azure-ca FILE").Wrap(err)
	case azure.Classify(err) == azure.Unauthenticated:
		return e.WithHint("run az login, or set AZURE_TENANT_ID, AZURE_CLIENT_ID and AZURE_CLIENT_SECRET")
	}
	return e
}

// VMs lists machines; query matches names.
func (s *Session) VMs(ctx context.Context, query string) (api.List[api.VM], error) {
	out := api.List[api.VM]{Items: []api.VM{}}
	snap, err := s.snapshot(ctx)
	if err != nil {
		return out, err
	}
	var found []access.Protection
	for _, m := range snap.Machines() {
		if p, ok := reconstruct(s.cfg.Installation, snap, m); ok {
			found = append(found, p)
		}
	}
	s.record.lay(found)
	if err := s.broker.Reload(ctx); err != nil {
		return out, err
	}
	vms, err := s.broker.VMs(ctx, s.caller, query)
	for _, v := range vms {
		out.Items = append(out.Items, s.convert().VM(v))
	}
	return out, err
}

// VM returns one machine, read from Azure itself.
func (s *Session) VM(ctx context.Context, ref string) (api.VM, error) {
	if err := s.prepare(ctx, []string{ref}, false); err != nil {
		return api.VM{}, err
	}
	v, err := s.broker.VM(ctx, s.caller, ref)
	if err != nil {
		return api.VM{}, err
	}
	return s.convert().VM(v), nil
}

// PlanProtection computes what Protect would write, and what it would mean. It changes nothing.
func (s *Session) PlanProtection(ctx context.Context, in api.ProtectInput) (api.ProtectPlan, error) {
	if err := s.prepare(ctx, in.VMs, in.Off); err != nil {
		return api.ProtectPlan{}, err
	}
	if len(in.Replace) > 0 && s.cfg.Undo == "" {
		s.note("rules of others are replaced only with an undo file: protect would refuse without --undo FILE")
	}
	plan, err := s.broker.PlanProtect(ctx, s.caller, s.convert().ProtectInput(in))
	if err == nil {
		s.tell(&plan)
		err = s.crosses(plan)
	}
	return s.convert().ProtectPlan(plan), err
}

// crosses refuses a plan that crosses with the record of another run, whose undo file this run does not have: one that would replace
// a rule of which only a remainder is left, or put a rule back which would let others in to a machine of that run's.
func (s *Session) crosses(plan broker.ProtectPlan) error {
	for _, c := range plan.Changes {
		if c.Kind != enforce.SetAside {
			continue
		}
		for _, r := range s.az.seen(c.Place).Rules {
			if strings.HasPrefix(r.Name, unrecorded) && remainsOf(r, c.Rule) {
				return access.Errorf(access.CodeConflict, "%s/%s was replaced by another run already, and its original is in the undo file of that run", lastPart(c.Place), c.Rule).
					WithHint("give that undo file, with --undo")
			}
		}
	}
	for _, p := range plan.Problems {
		if _, named := s.named[key(p.VM)]; p.VM == "" || named || !slices.ContainsFunc(plan.Changes, func(c enforce.Change) bool {
			return c.Kind == enforce.Restore && key(c.Place) == key(p.Place) && strings.EqualFold(c.Rule, p.Rule)
		}) {
			continue
		}
		return access.Errorf(access.CodeConflict, "putting %s/%s back would open %s, which another run protects", lastPart(p.Place), p.Rule, lastPart(p.VM)).
			WithHint("end that protection first, with the undo file that it was made with: curfew unprotect %s", p.VM)
	}
	return nil
}

// Protect does what was planned: with a Digest, only if the plan is still the same. It reports success only when the effective
// verdict for each port is deny (P4). Run again after it failed or was killed, it goes on where it stopped (P8).
func (s *Session) Protect(ctx context.Context, in api.ProtectInput) (api.ProtectPlan, error) {
	if s.cfg.ReadOnly {
		return api.ProtectPlan{}, errors.New("this session only reads")
	}
	if len(in.Replace) > 0 && s.cfg.Undo == "" {
		return api.ProtectPlan{}, needsUndo("", "")
	}
	if err := s.prepare(ctx, in.VMs, in.Off); err != nil {
		return api.ProtectPlan{}, err
	}
	var replaced []access.Replacement
	if in.Off {
		for _, p := range s.record.recorded() {
			if _, ok := s.named[key(p.VM.ID)]; ok {
				replaced = append(replaced, p.Replaced...)
			}
		}
	}
	if len(replaced) > 0 || len(in.Replace) > 0 {
		plan, err := s.broker.PlanProtect(ctx, s.caller, s.convert().ProtectInput(in))
		if err == nil {
			err = s.crosses(plan)
		}
		if err != nil {
			return s.convert().ProtectPlan(plan), err
		}
		if in.Digest == "" {
			in.Digest = plan.Digest
		}
	}
	s.failed, s.synced, s.problems = map[string]error{}, map[string]bool{}, nil
	plan, err := s.broker.Protect(ctx, s.caller, s.convert().ProtectInput(in))
	s.tell(&plan)
	out := s.convert().ProtectPlan(plan)
	for _, id := range slices.Sorted(maps.Keys(s.failed)) {
		e := *azure.UserError(s.failed[id])
		e.Message = lastPart(id) + " could not be written: " + e.Message
		again := "then run the same command again: it goes on where this one stopped"
		if e.Hint != "" {
			again = e.Hint + "\n" + again
		}
		return out, e.WithHint("%s", again)
	}
	if !plan.Applied {
		return out, err
	}
	ctx = context.WithoutCancel(ctx)
	if ferr := s.finish(ctx); err == nil {
		err = ferr
	}
	if in.Off && err == nil {
		err = s.putBack(ctx, replaced)
	}
	return out, err
}

// prepare reads the named machines, and lays what stands of theirs under the broker where the undo file does not know them.
func (s *Session) prepare(ctx context.Context, refs []string, off bool) error {
	snap, err := s.snapshot(ctx)
	if err != nil {
		return err
	}
	s.off, s.named = off, map[string]machine{}
	recorded := s.record.recorded()
	for _, ref := range refs {
		m, err := snap.Find(ref)
		if access.CodeOf(err) == access.CodeNotFound {
			if snap, err = s.inv.Refresh(ctx); err != nil {
				return err
			}
			m, err = snap.Find(ref)
		}
		if err != nil {
			return err
		}
		one := machine{vm: access.VM{ID: m.ID, Name: m.Name, VMID: m.VMID}}
		s.record.lift(m.ID)
		fresh, err := s.inv.Confirm(ctx, m.ID)
		switch {
		case err == nil:
			if m, err = fresh.Find(m.ID); err != nil {
				return err
			}
			one.addrs = m.Addrs()
			if p, ok := reconstruct(s.cfg.Installation, fresh, m); ok {
				s.record.lay([]access.Protection{p})
				one.addrs = append(one.addrs, addressesOf(p, "")...)
			}
		case access.CodeOf(err) != access.CodeNotFound || !off:
			return err
		}
		if off {
			s.record.reopen(m.ID)
		}
		for _, p := range recorded {
			if key(p.VM.ID) == key(m.ID) {
				one.addrs = append(one.addrs, addressesOf(p, "")...)
			}
		}
		s.named[key(m.ID)] = one
	}
	return s.broker.Reload(ctx)
}

// addressesOf returns the addresses that a protection names at a place; "" is all.
func addressesOf(p access.Protection, place string) []netip.Addr {
	var out []netip.Addr
	for _, q := range p.Ports {
		for _, pl := range q.Places {
			if place == "" || key(pl.ID) == key(place) {
				out = append(out, pl.Addresses...)
			}
		}
	}
	return out
}

// tell adds to a plan, and to the notes, what the broker does not know of.
func (s *Session) tell(plan *broker.ProtectPlan) {
	for i := range plan.VMs {
		vp := &plan.VMs[i]
		m := s.named[key(vp.VM.ID)]
		if !s.off {
			continue
		}
		for _, n := range s.seenPlaces() {
			for _, o := range openAt(s.cfg.Installation, n, s.cfg.Clock.Now(), map[string][]netip.Addr{key(vp.VM.ID): m.addrs}) {
				if o.vms != nil && !slices.Contains(vp.Grants, o.grant) {
					vp.Grants = append(vp.Grants, o.grant)
				}
			}
		}
		recorded := slices.ContainsFunc(s.record.recorded(), func(p access.Protection) bool { return access.SameVM(p.VM.ID, vp.VM.ID) })
		if !recorded && !plan.Applied {
			s.note("no undo file knows %s: its rules go by their names, and a rule of somebody else's that was replaced for it cannot be put back", vp.VM.Name)
		}
	}
}

func (s *Session) seenPlaces() []azure.NSG {
	s.az.mu.Lock()
	defer s.az.mu.Unlock()
	var out []azure.NSG
	for _, n := range s.az.last {
		out = append(out, n)
	}
	return out
}

// Sweep implements broker.Enforcer; nobody calls it here.
func (s *Session) Sweep(context.Context) (broker.SweepReport, error) {
	return broker.SweepReport{}, errNoAccess
}

// Wake implements broker.Enforcer.
func (s *Session) Wake() {}

// finish settles machines of the undo file that this run was not asked about and that an earlier one left half done, where all of
// their places have been written now (P8).
func (s *Session) finish(ctx context.Context) error {
	for _, p := range s.record.recorded() {
		if _, named := s.named[key(p.VM.ID)]; named || p.State == access.ProtectionOn {
			continue
		}
		if slices.ContainsFunc(p.Places, func(pl access.Place) bool { return !s.synced[key(pl.ID)] }) {
			verb := "protect"
			if p.State == access.ProtectionRemoving {
				verb = "unprotect"
			}
			s.note("an earlier run left %s half done; finish it with: curfew %s %s", p.VM.Name, verb, p.VM.ID)
			continue
		}
		next := p
		if p.State == access.ProtectionRemoving {
			next.State, next.Why = access.ProtectionRemoved, ""
		} else if v, err := s.broker.Verify(ctx, p); err == nil {
			next.State, next.Why, next.CheckedAt = v.State, v.Why, v.CheckedAt
		}
		err := s.broker.UpdateProtection(ctx, p.VM.ID, func(cur access.Protection) (access.Protection, string) {
			cur.State, cur.Why, cur.CheckedAt = next.State, next.Why, next.CheckedAt
			return cur, "settled by a later run"
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// putBack reads again whether every rule that was replaced stands as it was.
func (s *Session) putBack(ctx context.Context, replaced []access.Replacement) error {
	for _, rep := range replaced {
		name := lastPart(rep.NSG) + "/" + rep.Rule
		if slices.ContainsFunc(s.record.at(rep.NSG), func(p access.Protection) bool {
			return slices.ContainsFunc(p.Replaced, func(r access.Replacement) bool {
				return key(r.NSG) == key(rep.NSG) && strings.EqualFold(r.Rule, rep.Rule)
			})
		}) {
			s.note("%s stays replaced: another machine's protection needs it so; its original is kept for the end of that one", name)
			continue
		}
		n, err := s.cfg.Azure.NSG(ctx, rep.NSG)
		if err != nil && azure.Classify(err) != azure.NotFound {
			return azure.UserError(err)
		}
		now, ok := n.Rule(rep.Rule)
		if ok && sameRule(now.Raw, rep.Original) {
			continue
		}
		why, hint := "it is not there as it was", "look at the rule, and write it by hand if it should be as it was"
		for _, p := range s.problems {
			if strings.EqualFold(p.Rule, rep.Rule) && key(p.Place) == key(rep.NSG) {
				why, hint = p.Message, p.Hint
			}
		}
		return access.Errorf(access.CodeConflict, "%s was not put back: %s", name, why).
			WithHint("%s\nits original stands under \"past\" in %s", hint, s.record.path)
	}
	return nil
}

// sameRule compares two rules as Azure gives them, but for what Azure computes.
func sameRule(a, b []byte) bool {
	parse := func(raw []byte) []byte {
		var r map[string]any
		if json.Unmarshal(raw, &r) != nil {
			return nil
		}
		delete(r, "etag")
		if p, ok := r["properties"].(map[string]any); ok {
			delete(p, "provisioningState")
		}
		out, _ := json.Marshal(r) // keys in order
		return out
	}
	x := parse(a)
	return x != nil && bytes.Equal(x, parse(b))
}

// confirmed is an inventory that remembers which snapshot a group was confirmed in, so that a write means the same as its plan.
type confirmed struct {
	*inventory.Live
	mu sync.Mutex
	by map[string]*inventory.Snapshot // group key
}

// Confirm implements broker.Inventory.
func (c *confirmed) Confirm(ctx context.Context, vmID string) (*inventory.Snapshot, error) {
	s, err := c.Live.Confirm(ctx, vmID)
	if err != nil {
		return nil, err
	}
	if m, ferr := s.Find(vmID); ferr == nil {
		c.mu.Lock()
		defer c.mu.Unlock()
		for _, id := range m.NSGs() {
			c.by[key(id)] = s
		}
	}
	return s, nil
}

// env is what tags and application security groups mean for a group.
func (c *confirmed) env(ctx context.Context, place string) netsec.Env {
	c.mu.Lock()
	s := c.by[key(place)]
	c.mu.Unlock()
	if s == nil {
		var err error
		if s, err = c.Live.Snapshot(ctx); err != nil {
			return netsec.Env{} // unknown tags and groups count as overlapping: the cautious side
		}
	}
	return s.EnvOf(place)
}

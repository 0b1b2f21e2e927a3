// Package broker holds the use cases, and is the only writer of state. Each of them takes the caller first, passes one guard,
// and records what it does in the same transaction in which it does it; what must then happen in Azure is left to the
// reconciler, which asks the broker what is wanted and tells it what became of it.
//
// Trusted: the store, and the clock only forwards. Not trusted: callers, Azure's answers, and what stood in memory before a crash.
package broker

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/notify"
)

// Inventory tells which machines there are.
type Inventory interface {
	// Snapshot returns the newest snapshot of all machines, which may be some minutes old.
	Snapshot(ctx context.Context) (*inventory.Snapshot, error)
	// Refresh reads everything again.
	Refresh(ctx context.Context) (*inventory.Snapshot, error)
	// Confirm reads one machine, and all that decides about its network, from the resource providers themselves. A machine that
	// is gone is access.CodeNotFound.
	Confirm(ctx context.Context, vmID string) (*inventory.Snapshot, error)
}

// Enforcer brings places up to what the broker wants there. The reconciler implements it.
type Enforcer interface {
	// SyncNow brings the places up to date and waits for it; the results are keyed by access key of the place.
	SyncNow(ctx context.Context, places []string) map[string]error
	// Sweep runs a whole sweep and waits for it.
	Sweep(ctx context.Context) (SweepReport, error)
	// Wake tells that there may be something to do.
	Wake()
}

// Spool takes entries while the log cannot be written (P7). *audit.Spool implements it.
type Spool interface {
	Add(audit.Entry) error
	Len() int
	// Drain hands all waiting entries, oldest first, to record, once each; it stops at the first error and keeps the rest.
	Drain(record func([]audit.Entry) error) error
}

// Policy decides who may ask for what, purely. *policy.Set implements it.
type Policy interface {
	// Decide returns the limits within which the ask is allowed, or why it is not.
	Decide(a access.Ask, now time.Time) (access.Limits, error)
	// GroupsOf returns the policy's groups that the caller is in, by name or by what the issuer of their token says.
	GroupsOf(c access.Caller) []string
}

// Config is what a broker needs.
type Config struct {
	Installation  string // [a-z0-9]{4,12}
	Store         Store
	Spool         Spool
	Clock         clock.Clock
	Inventory     Inventory
	Backend       enforce.Backend
	Policy        func() Policy
	People        func() []access.Caller // for naming approvers; may be nil
	RequestExpiry time.Duration          // default 24 h
	KeyRetention  time.Duration          // of idempotency keys; default 24 h
	Restored      string                 // why the store is taken for a restored backup; "" if it is not
	AcceptStore   func(context.Context) error
	Scanner       Scanner          // nil: this server does not scan
	OnScan        func(ScanRecord) // called with every scan that was kept, and at the start with the newest; may be nil
	ScanRetention time.Duration    // how long scans are kept; default 90 days
	Routes        []notify.Route   // the channels that are told of things; none: nobody is
	Log           *slog.Logger
	Demo          bool
	Version       string
}

// Broker implements Service.
type Broker struct {
	cfg   Config
	log   *slog.Logger
	time  *timekeeper
	index *index
	hub   *hub
	enf   Enforcer

	mu        sync.Mutex
	hold      string
	storeErr  string
	azureErr  string
	issuerErr string
	refusals  struct { // of sign-ins, in the current minute
		minute  time.Time
		n, left int
	}
	policyErr        string // why the newest policy is not in force
	lastSweep        time.Time
	saidHousekeeping said
	saidOver         said              // that what is over could not be stored
	reminded         time.Time         // when the last search of the store for people to remind began
	reminding        string            // where that search goes on; "" when it is through
	renewed          []string          // places where a grant was lengthened; the rule's name still carries the old end
	scanRun          *scanning         // the scan that runs, nil where none does
	flushed          map[string]string // places where we switched flushConnection on, by key
	locks            sync.Map          // VM key -> chan struct{}: one change of a machine's protection at a time
}

// Meta keys in the store.
const (
	metaInstallation = "installation"
	metaHold         = "hold"
	metaClock        = "clock_mark"
)

// looksRestored begins the reason of a hold over a database that is taken for a restored backup.
const looksRestored = "the database looks restored"

// New opens a broker over a store: it loads what is live, and decides whether openings are on hold.
func New(ctx context.Context, cfg Config) (*Broker, error) {
	if cfg.RequestExpiry <= 0 {
		cfg.RequestExpiry = 24 * time.Hour
	}
	if cfg.KeyRetention <= 0 {
		cfg.KeyRetention = 24 * time.Hour
	}
	if cfg.ScanRetention <= 0 {
		cfg.ScanRetention = 90 * 24 * time.Hour
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	b := &Broker{cfg: cfg, log: cfg.Log, index: newIndex(), hub: newHub(), enf: nobody{}}
	var mark time.Time
	err := cfg.Store.Update(ctx, func(tx Tx) error {
		have, err := tx.Meta(metaInstallation)
		if err != nil {
			return err
		}
		if have != "" && have != cfg.Installation {
			return access.Errorf(access.CodeConflict, "this database belongs to installation %q, and the configuration names %q", have, cfg.Installation).
				WithHint("rules carry the installation's name: with another one the old rules would be nobody's; set installation back to %q", have)
		}
		if have == "" {
			if err := tx.SetMeta(metaInstallation, cfg.Installation); err != nil {
				return err
			}
		}
		if b.hold, err = tx.Meta(metaHold); err != nil {
			return err
		}
		if cfg.Restored != "" && !strings.HasPrefix(b.hold, looksRestored) { // once: an admin signs in to confirm
			if err := dropAllSessions(tx); err != nil {
				return err
			}
		}
		if cfg.Restored != "" && b.hold == "" {
			b.hold = looksRestored + " from a backup (" + cfg.Restored + "); grants that were closed or revoked since then may stand in it as live"
			if err := tx.SetMeta(metaHold, b.hold); err != nil {
				return err
			}
			if _, err := tx.Append(audit.Entry{At: cfg.Clock.Now(), Actor: "curfew", Action: "system.hold", Outcome: audit.Done, Message: b.hold}); err != nil {
				return err
			}
		}
		s, err := tx.Meta(metaClock)
		if err != nil {
			return err
		}
		if s != "" {
			if mark, err = time.Parse(time.RFC3339Nano, s); err != nil {
				return fmt.Errorf("reading the clock mark: %w", err)
			}
		}
		last, err := tx.Entries(AuditFilter{Limit: 1})
		if err == nil && len(last) > 0 && last[0].At.After(mark) && last[0].Action != "system.resume" && s != "" {
			mark = last[0].At // an entry is as good a mark, unless an admin has set the clock right since
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	b.time = newTimekeeper(cfg.Clock, mark)
	if err := b.Reload(ctx); err != nil {
		return nil, err
	}
	return b, nil
}

// SetEnforcer connects the reconciler; until then nothing is written to Azure.
func (b *Broker) SetEnforcer(e Enforcer) { b.enf = e }

// nobody is the enforcer before one is set: it refuses.
type nobody struct{}

func (nobody) SyncNow(_ context.Context, places []string) map[string]error {
	out := map[string]error{}
	for _, p := range places {
		out[p] = errors.New("no reconciler is running")
	}
	return out
}
func (nobody) Sweep(context.Context) (SweepReport, error) {
	return SweepReport{}, errors.New("no reconciler is running")
}
func (nobody) Wake() {}

// Reload reads all live state from the store again.
func (b *Broker) Reload(ctx context.Context) error {
	if err := b.reloadFlushed(ctx); err != nil {
		return err
	}
	return b.index.reload(func() (grants []access.Grant, prots []access.Protection, err error) {
		err = b.cfg.Store.View(ctx, func(tx Tx) (err error) {
			if grants, err = tx.LiveGrants(); err != nil {
				return err
			}
			f := GrantFilter{States: []access.GrantState{access.Scheduled}, Page: Page{Limit: 500}}
			for {
				page, next, err := tx.Grants(f)
				if err != nil {
					return err
				}
				grants = append(grants, page...)
				if next == "" {
					break
				}
				f.Page.After = next
			}
			prots, err = tx.Protections()
			return err
		})
		return grants, prots, err
	})
}

// Now is the time by which the broker decides: it never goes back.
func (b *Broker) Now() time.Time { return b.time.now() }

// Hold returns why nothing may open, or "".
func (b *Broker) Hold() string {
	b.mu.Lock()
	h := b.hold
	b.mu.Unlock()
	if h == "" {
		b.time.now()
		h = b.time.held()
	}
	return h
}

// PutOnHold keeps everything from opening until an admin has looked. A hold that stands already is kept.
func (b *Broker) PutOnHold(ctx context.Context, why string) error {
	if b.Hold() != "" {
		return nil
	}
	err := b.update(ctx, func(tx Tx) error {
		if err := tx.SetMeta(metaHold, why); err != nil {
			return err
		}
		_, err := tx.Append(audit.Entry{At: b.Now(), Actor: system.Name, Action: "system.hold", Outcome: audit.Done, Message: why})
		return err
	})
	if err == nil {
		b.mu.Lock()
		b.hold = why
		b.mu.Unlock()
	}
	return err
}

// Knows tells whether the store has a grant of that id, in whatever state.
func (b *Broker) Knows(ctx context.Context, id access.GrantID) (bool, error) {
	if _, ok := b.index.grant(id); ok {
		return true, nil
	}
	err := b.view(ctx, func(tx Tx) error { _, err := tx.Grant(id); return err })
	if access.CodeOf(err) == access.CodeNotFound {
		return false, nil
	}
	return err == nil, err
}

// NoteShields is told, before anything is concluded from it, how many places hold denies of this installation. A store that has
// never protected anything is not the one by which they were written: it would take every one of them for nobody's, and remove it.
// Openings are put on hold, and with them whatever would take a shield away, until an admin has looked.
func (b *Broker) NoteShields(ctx context.Context, places int) error {
	if places == 0 || b.Hold() != "" || len(b.index.protections()) > 0 {
		return nil
	}
	why := ""
	err := b.update(ctx, func(tx Tx) error {
		for _, action := range []string{"protection.on", "system.resume"} {
			if es, err := tx.Entries(AuditFilter{Action: action, Limit: 1}); err != nil || len(es) > 0 {
				return err
			}
		}
		why = fmt.Sprintf("the database is new, and %d network security groups hold shields of installation %s that it knows nothing of; protect those machines again before you confirm, or they are opened", places, b.cfg.Installation)
		if err := tx.SetMeta(metaHold, why); err != nil {
			return err
		}
		_, err := tx.Append(audit.Entry{At: b.Now(), Actor: system.Name, Action: "system.hold", Outcome: audit.Done, Message: why})
		return err
	})
	if err == nil && why != "" {
		b.mu.Lock()
		b.hold = why
		b.mu.Unlock()
	}
	return err
}

func (b *Broker) heldError() *access.Error {
	return access.Errorf(access.CodeHeld, "nothing opens at present: %s", b.Hold()).
		WithHint("an admin looks at what is live (curfew grant list) and then confirms with: curfew reconcile --resume")
}

// update runs a write transaction, tells watchers of new entries, and notes whether the store works. What changes grants or
// protections goes through change instead.
func (b *Broker) update(ctx context.Context, fn func(Tx) error) error {
	err := b.commit(ctx, fn)
	if err == nil {
		b.hub.notify()
	}
	return err
}

// change runs a write transaction that changes grants and protections, which fn returns as they are stored. They are in the index
// before any other change can be committed: two changes of one grant that were applied the other way round would bring back to
// life what the later one shut.
func (b *Broker) change(ctx context.Context, fn func(Tx) ([]access.Grant, []access.Protection, error)) error {
	b.index.order.Lock()
	defer b.index.order.Unlock()
	var grants []access.Grant
	var prots []access.Protection
	err := b.commit(ctx, func(tx Tx) (err error) { grants, prots, err = fn(tx); return err })
	if err == nil {
		b.index.apply(grants, prots)
		b.hub.notify()
	}
	return err
}

func (b *Broker) commit(ctx context.Context, fn func(Tx) error) error {
	// What was begun is finished even if the caller goes away: half of a decision is worse than a late answer.
	ctx = context.WithoutCancel(ctx)
	id := audit.Correlation(ctx)
	err := b.cfg.Store.Update(ctx, func(tx Tx) error {
		if id != "" {
			tx = correlated{tx, id}
		}
		return fn(tx)
	})
	b.noteStore(err)
	return err
}

// correlated marks the entries of one call.
type correlated struct {
	Tx
	id string
}

func (c correlated) Append(e audit.Entry) (audit.Entry, error) {
	if e.Correlation == "" {
		e.Correlation = c.id
	}
	return c.Tx.Append(e)
}

func (b *Broker) view(ctx context.Context, fn func(Tx) error) error {
	err := b.cfg.Store.View(ctx, fn)
	if access.CodeOf(err) == access.CodeUnavailable && ctx.Err() == nil { // a caller who goes away says nothing about the store
		b.noteStore(err)
	}
	return err
}

func (b *Broker) noteStore(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case err == nil:
		b.storeErr = ""
	case access.CodeOf(err) == access.CodeUnavailable:
		b.storeErr = words(err)
	}
}

// StoreDown tells whether the last use of the store failed; nothing may open or widen then (P7).
func (b *Broker) StoreDown() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.storeErr != ""
}

// NoteAzure records whether Azure answers, for Status.
func (b *Broker) NoteAzure(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.azureErr = ""
	if err != nil {
		b.azureErr = words(err)
	}
}

// words returns what a person may read of an error; the rest is for the log.
func words(err error) string {
	var ae *access.Error
	if errors.As(err, &ae) {
		return ae.Message
	}
	return err.Error()
}

// need is the guard: the caller must have one of the roles. A refusal is recorded before it is told.
func (b *Broker) need(ctx context.Context, c access.Caller, action, object string, roles ...access.Role) error {
	if strings.TrimSpace(c.Name) == "" {
		return access.Errorf(access.CodeUnauthenticated, "sign in first").WithHint("set CURFEW_TOKEN, or in the demo use --as requester")
	}
	for _, r := range roles {
		if c.Has(r) {
			return nil
		}
	}
	var names []string
	for _, r := range roles {
		names = append(names, string(r))
	}
	have := "no role"
	if len(c.Roles) > 0 {
		var s []string
		for _, r := range c.Roles {
			s = append(s, string(r))
		}
		have = "only the role " + strings.Join(s, ", ")
	}
	return b.refuse(ctx, c, action, object, access.Errorf(access.CodeDenied, "%s has %s; this needs %s", c.Name, have, strings.Join(names, " or ")).
		WithHint("an admin can give the role in the configuration"))
}

// refuse records a refusal and returns it. That it could not be recorded does not turn it into consent.
func (b *Broker) refuse(ctx context.Context, c access.Caller, action, object string, err error) error {
	var ae *access.Error
	if !errors.As(err, &ae) {
		return err
	}
	switch ae.Code {
	case access.CodeDenied, access.CodeNotProtected, access.CodeHeld:
	default:
		return err // mistakes and states of things are not refusals of a person
	}
	e := b.entry(c, action, audit.Refused, short(object), "%s", ae.Message)
	if uerr := b.update(ctx, func(tx Tx) error { _, err := tx.Append(e); return err }); uerr != nil {
		b.log.Error("a refusal could not be recorded", "action", action, "error", uerr)
	}
	return err
}

// short bounds what a caller can write into the log of what they were refused.
func short(s string) string {
	s = clean(s)
	if len(s) <= 300 {
		return s
	}
	return strings.ToValidUTF8(s[:300], "") + "…"
}

func (b *Broker) entry(c access.Caller, action string, o audit.Outcome, object, format string, args ...any) audit.Entry {
	e := audit.Entry{At: b.Now(), Actor: c.Name, Action: action, Outcome: o, Object: object, Message: fmt.Sprintf(format, args...)}
	if c.Address.IsValid() && !c.Service {
		e.Detail = map[string]string{"from": c.Address.String()}
	}
	return e
}

// system is the caller that stands for the program itself.
var system = access.Caller{Name: "curfew", Service: true}

func detail(e audit.Entry, kv ...string) audit.Entry {
	m := map[string]string{}
	for k, v := range e.Detail {
		m[k] = v
	}
	for i := 0; i+1 < len(kv); i += 2 {
		if kv[i+1] != "" {
			m[kv[i]] = kv[i+1]
		}
	}
	e.Detail = m
	return e
}

func requestEntry(e audit.Entry, r access.Request) audit.Entry {
	e.Object, e.Request = string(r.ID), string(r.ID)
	var vms []string
	for _, t := range r.Terms.Targets {
		vms = append(vms, t.VM.Name)
	}
	e.VM = strings.Join(vms, ",")
	e = detail(e, "requester", r.Requester, "state", string(r.State))
	if r.BreakGlass {
		e = detail(e, "break_glass", "true")
	}
	return e
}

func grantEntry(e audit.Entry, g access.Grant) audit.Entry {
	e.Object, e.Request, e.VM = string(g.ID), string(g.Request), g.Target.VM.Name
	e = detail(e, "requester", g.Requester, "state", string(g.State), "target", g.Target.String(), "source", g.Source.String())
	if !g.EndsAt.IsZero() {
		e = detail(e, "ends_at", g.EndsAt.UTC().Format(time.RFC3339))
	}
	if g.BreakGlass { // in the words as well: whoever reads the log alone must see it at each entry
		e.Message += " (break-glass)"
		e = detail(e, "break_glass", "true")
	}
	return e
}

const idAlphabet = "0123456789abcdefghjkmnpqrstvwxyz"

// newID returns ten characters with 50 random bits: short enough to say, and unique by the store's own check.
func newID() string {
	var raw [10]byte
	_, _ = rand.Read(raw[:]) // never fails: crypto/rand
	for i := range raw {
		raw[i] = idAlphabet[raw[i]&31]
	}
	return string(raw[:])
}

func isPrivileged(c access.Caller) bool {
	return c.Has(access.Approver) || c.Has(access.Auditor) || c.Has(access.Admin)
}

var anyRole = []access.Role{access.Requester, access.Approver, access.Auditor, access.Admin}

func notFound(kind, id string) *access.Error {
	return access.Errorf(access.CodeNotFound, "there is no %s %q, or it is not yours to see", kind, id).
		WithHint("list yours with: curfew %s list", kind)
}

func callerSource(in string, addr netip.Addr) (netip.Prefix, error) {
	if in != "" && !strings.EqualFold(in, "my-ip") {
		return access.ParseSource(in)
	}
	addr = addr.Unmap()
	if !addr.IsValid() || addr.IsLoopback() || addr.IsUnspecified() {
		return netip.Prefix{}, invalid("source", "your address is not known: the call came from %s", addr).
			WithHint("name the address that you will connect from, with --from")
	}
	return access.CheckSource(netip.PrefixFrom(addr, addr.BitLen()))
}

// Status implements Service.
func (b *Broker) Status(context.Context) Status {
	now := b.Now()
	s := Status{Hold: b.Hold(), Demo: b.cfg.Demo, Version: b.cfg.Version}
	if b.cfg.Spool != nil {
		s.Spooled = b.cfg.Spool.Len()
	}
	b.index.each(func(g access.Grant) {
		if g.State == access.Active || g.State == access.Activating {
			s.Live++
		}
		if g.Overdue(now) {
			s.Overdue++
		}
	})
	b.mu.Lock()
	defer b.mu.Unlock()
	s.Store, s.Azure, s.SignIn, s.Policy, s.LastSweep = b.storeErr, b.azureErr, b.issuerErr, b.policyErr, b.lastSweep
	s.Ready = s.Store == "" && s.Azure == "" && !s.LastSweep.IsZero()
	return s
}

// Resume implements Service.
func (b *Broker) Resume(ctx context.Context, c access.Caller, comment string) error {
	if err := b.need(ctx, c, "system.resume", "", access.Admin); err != nil {
		return err
	}
	was := b.Hold()
	if was == "" {
		return access.Errorf(access.CodeConflict, "nothing is on hold").WithHint("there is nothing to confirm; curfew reconcile looks at everything now")
	}
	comment, err := checkComment(comment)
	if err != nil {
		return err
	}
	if b.cfg.AcceptStore != nil {
		if err := b.cfg.AcceptStore(ctx); err != nil {
			return err
		}
	}
	err = b.update(ctx, func(tx Tx) error {
		if err := tx.SetMeta(metaHold, ""); err != nil {
			return err
		}
		if err := tx.SetMeta(metaClock, b.cfg.Clock.Now().UTC().Format(time.RFC3339Nano)); err != nil {
			return err
		}
		_, err := tx.Append(detail(b.entry(c, "system.resume", audit.Done, "", "openings are allowed again; they were on hold because %s", was), "comment", comment))
		return err
	})
	if err != nil {
		return err
	}
	b.mu.Lock()
	b.hold = ""
	b.mu.Unlock()
	b.time.accept()
	b.enf.Wake()
	return nil
}

// Reconcile implements Service.
func (b *Broker) Reconcile(ctx context.Context, c access.Caller) (SweepReport, error) {
	if err := b.need(ctx, c, "system.reconcile", "", access.Admin); err != nil {
		return SweepReport{}, err
	}
	// A sweep closes: it does not wait for the log (P7).
	b.record(ctx, b.entry(c, "system.reconcile", audit.Intent, "", "%s has everything looked at", c.Name))
	return b.enf.Sweep(ctx)
}

// Package sim is a stateful Azure Resource Manager in memory, spoken to over HTTP: demo, test double and fault injector in one. It keeps
// state, answers in ARM's shapes (long-running operations, etags, error bodies, paging, Resource Graph), fails on demand and can move
// its clock. It is a witness: it stores and lists security rules as Azure does, and never judges what they let through, so it imports
// none of the packages that do.
//
// Nothing here is trusted with secrets: the credentials are fixed and public, the control API is open to the loopback interface.
package sim

import (
	"bytes"
	"container/heap"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/clock"
)

// Fixed credentials of the simulated directory. They open nothing real.
const (
	TenantID     = "11111111-1111-1111-1111-111111111111"
	ClientID     = "77777777-7777-7777-7777-777777777777"
	ClientSecret = "simulated-secret"
)

// Concurrency says what a second write to a network resource meets while an earlier one is still running (FACTS 2.5).
type Concurrency string

const (
	// Retry answers the second write 429 RetryableError / RetryableErrorDueToAnotherOperation, without Retry-After. The default.
	Retry Concurrency = "retry"
	// Supersede accepts the second write; the operation of the first ends Canceled / CanceledAndSupersededDueToAnotherOperation.
	Supersede Concurrency = "supersede"
)

// Config of a simulator. The zero value is an empty Azure on the system clock.
type Config struct {
	// Now is the clock that the simulated time starts from; nil is the system clock. SetTimeOffset and Advance shift it.
	Now func() time.Time
	// Estate is loaded at New: {"resources":[...]} of ARM bodies.
	Estate []byte
	// OperationDelay is how long a long-running write stays Updating. With 0 it is still asynchronous in form (Updating in the reply,
	// an operation to poll), and done by the next request.
	OperationDelay time.Duration
	// RetryAfter, when above zero, is sent with operations and their polls, in whole seconds. Recorded NSG replies had none.
	RetryAfter time.Duration
	// Concurrency of writes to one resource; empty is Retry.
	Concurrency Concurrency
	// PageSize of lists; 0 is 1000.
	PageSize int
	// GraphPage is how many rows a page of Resource Graph holds at most, however many are asked for; 0 is as many as are asked for.
	GraphPage int
	// Throttle enforces ARM's token buckets (FACTS 3) with 429 SubscriptionRequestsThrottled; without it the headers only count down.
	Throttle bool
	// GraphQuota enforces 15 Resource Graph queries per 5 seconds and principal.
	GraphQuota bool
	// GraphLag is how far Resource Graph is behind the resource providers; what changed within it is shown as it was, as far as the last
	// changes of a resource are remembered. With 0 it is never behind.
	GraphLag time.Duration
	// RuleIfMatch makes PUT and DELETE of a single rule honour If-Match. Off, because nobody has verified that Azure does (FACTS 6.4).
	RuleIfMatch bool
	// RequestLog is how many requests are remembered; 0 is 4096.
	RequestLog int
	// Seed of etags, ids and operation names: the same seed and the same requests give the same ones.
	Seed uint64
	// TokenKey signs tokens; nil is a fresh one. A simulator that is started again with the same key accepts the tokens of before.
	TokenKey []byte
	Log      *slog.Logger
}

// Sim is one simulated Azure. All methods may be called concurrently.
type Sim struct {
	cfg Config
	log *slog.Logger
	key []byte // signs tokens

	certOnce sync.Once
	caPEM    []byte
	cert     tls.Certificate
	certErr  error

	mu       sync.Mutex
	rng      *rand.Rand
	offset   time.Duration
	seq      uint64
	faults   []*fault
	faultSeq int
	requests []RequestRecord // ring
	logNext  int
	revision uint64
	watchers map[chan struct{}]struct{}
	used     map[string]map[string]string // by principal, lower-case action: the action
	world
}

// world is what a Load replaces.
type world struct {
	all         map[string]*resource   // by lower-case id
	byType      map[string][]*resource // by lower-case type, in order of creation; gone ones are swept lazily
	gone        map[string]int         // how many gone ones stand in byType
	refs        map[string]map[ref]struct{}
	locks       map[string]*resource // the locks among all
	ops         map[string]*operation
	opOrder     []string
	due         dueHeap
	faults      []*fault
	faultSeq    int
	requests    []RequestRecord // ring
	logNext     int
	writes      map[string]int
	buckets     map[string]*bucket
	caches      *caches
	words       map[string]string // shared parts of ids
	typeLists   map[string][]string
	quota       map[string]*graphWindow
	graphKept   map[graphKey]*graphAnswer
	pageSize    int // room for a row of an answer of Resource Graph, as the last page had it
	activities  []activity
	instanceSeq map[string]int // next instance id by scale set
}

// New returns a simulator that holds cfg.Estate.
func New(cfg Config) (*Sim, error) {
	if cfg.Now == nil {
		cfg.Now = clock.System{}.Now
	}
	if cfg.Log == nil {
		cfg.Log = slog.New(slog.DiscardHandler)
	}
	if cfg.PageSize <= 0 {
		cfg.PageSize = 1000
	}
	if cfg.RequestLog <= 0 {
		cfg.RequestLog = 4096
	}
	switch cfg.Concurrency {
	case "":
		cfg.Concurrency = Retry
	case Retry, Supersede:
	default:
		return nil, fmt.Errorf("unknown concurrency %q: want %q or %q", cfg.Concurrency, Retry, Supersede)
	}
	if cfg.TokenKey == nil {
		cfg.TokenKey = newTokenKey()
	}
	s := &Sim{cfg: cfg, log: cfg.Log, key: cfg.TokenKey, rng: rand.New(rand.NewPCG(cfg.Seed, 0x63757266657721)), world: newWorld()}
	if cfg.Estate != nil {
		if err := s.Load(cfg.Estate); err != nil {
			return nil, err
		}
	}
	return s, nil
}

func newWorld() world {
	return world{
		all: map[string]*resource{}, byType: map[string][]*resource{}, gone: map[string]int{},
		refs: map[string]map[ref]struct{}{}, locks: map[string]*resource{}, ops: map[string]*operation{},
		writes: map[string]int{}, buckets: map[string]*bucket{}, caches: newCaches(), words: map[string]string{}, typeLists: map[string][]string{}, quota: map[string]*graphWindow{}, graphKept: map[graphKey]*graphAnswer{}, instanceSeq: map[string]int{},
	}
}

func (s *Sim) nowLocked() time.Time { return s.cfg.Now().UTC().Add(s.offset) }

// Now is the simulated time.
func (s *Sim) Now() time.Time {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.nowLocked()
}

// SetTimeOffset sets how far the simulated clock is ahead of Config.Now (or behind it, when negative). Tokens do not age by it: a
// client that lives on the unshifted clock would hold a token that it believes in and nobody accepts.
func (s *Sim) SetTimeOffset(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset = d
	s.settleLocked()
}

// Advance moves the simulated clock on by d.
func (s *Sim) Advance(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.offset += d
	s.settleLocked()
}

// SetOperationDelay changes Config.OperationDelay for writes from now on.
func (s *Sim) SetOperationDelay(d time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.OperationDelay = d
}

// SetConcurrency changes Config.Concurrency from now on.
func (s *Sim) SetConcurrency(c Concurrency) error {
	if c != Retry && c != Supersede {
		return fmt.Errorf("unknown concurrency %q: want %q or %q", c, Retry, Supersede)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cfg.Concurrency = c
	return nil
}

// dueEvent is something that the simulated clock makes happen: an operation that ends, a write that the network delivers late. Events
// run when the next request or method looks, in order of their time, so that no timer and no goroutine is needed.
type dueEvent struct {
	at  time.Time
	seq uint64
	run func()
}

type dueHeap []dueEvent

func (h dueHeap) Len() int { return len(h) }
func (h dueHeap) Less(i, j int) bool {
	if h[i].at.Equal(h[j].at) {
		return h[i].seq < h[j].seq
	}
	return h[i].at.Before(h[j].at)
}
func (h dueHeap) Swap(i, j int) { h[i], h[j] = h[j], h[i] }
func (h *dueHeap) Push(x any)   { *h = append(*h, x.(dueEvent)) }
func (h *dueHeap) Pop() any {
	old := *h
	e := old[len(old)-1]
	*h = old[:len(old)-1]
	return e
}

func (s *Sim) atLocked(t time.Time, run func()) {
	s.seq++
	heap.Push(&s.due, dueEvent{at: t, seq: s.seq, run: run})
}

func (s *Sim) settleLocked() {
	now := s.nowLocked()
	for len(s.due) > 0 && !s.due[0].at.After(now) {
		e := heap.Pop(&s.due).(dueEvent)
		e.run()
	}
}

func (s *Sim) uuidLocked() string {
	var b [16]byte
	hi, lo := s.rng.Uint64(), s.rng.Uint64()
	for i := range 8 {
		b[i], b[8+i] = byte(hi>>(8*i)), byte(lo>>(8*i))
	}
	b[6] = b[6]&0x0f | 0x40
	b[8] = b[8]&0x3f | 0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[0:4], b[4:6], b[6:8], b[8:10], b[10:16])
}

func (s *Sim) etagLocked() string { return `W/"` + s.uuidLocked() + `"` }

// Get returns a resource (or a rule, subnet or other child) as GET would, whatever the case of the id.
func (s *Sim) Get(id string) (body []byte, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	t, err := parsePath(id)
	if err != nil {
		return nil, false
	}
	raw, _, ok := s.lookLocked(t, view{})
	return bytes.Clone(raw), ok
}

// Edit is an outside hand: it changes a resource at once, with a new etag, past locks, faults and operations. It creates what does not
// exist (change then gets an empty map). The body is as GET shows it, numbers as float64; an NSG's rules are in properties.securityRules.
// To change a single rule or subnet, edit its parent. What change makes invalid is refused as Azure would refuse it.
func (s *Sim) Edit(id string, change func(body map[string]any) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	return s.editLocked(id, change)
}

func (s *Sim) editLocked(id string, change func(body map[string]any) error) error {
	t, err := parsePath(id)
	if err != nil {
		return err
	}
	if t.ns == "" || t.collection() {
		return fmt.Errorf("editing %s: not a resource", id)
	}
	body := map[string]any{}
	if r := s.all[t.key()]; r != nil {
		if err := json.Unmarshal(s.rawLocked(r), &body); err != nil {
			return fmt.Errorf("editing %s: %w", id, err)
		}
	} else if _, _, child := s.lookLocked(t, view{}); child {
		return fmt.Errorf("editing %s: it is part of %s, edit that", id, t.parent().id())
	}
	if err := change(body); err != nil {
		return err
	}
	data, err := json.Marshal(body)
	if err != nil {
		return fmt.Errorf("editing %s: %w", id, err)
	}
	decoded, err := decodeObject(data)
	if err != nil {
		return fmt.Errorf("editing %s: %w", id, err)
	}
	delete(decoded, "etag")
	r, ae := s.storeLocked(t, decoded, storeOutside)
	if ae != nil {
		return fmt.Errorf("editing %s: %w", id, ae)
	}
	s.containersOfLocked(r)
	return nil
}

// Delete is an outside hand that removes a resource at once, past locks and uses. A single rule or subnet may be named too.
func (s *Sim) Delete(id string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	t, err := parsePath(id)
	if err != nil {
		return err
	}
	if r := s.all[t.key()]; r != nil {
		s.removeLocked(r)
		return nil
	}
	if _, owner, ok := s.lookLocked(t, view{}); ok {
		return s.removeChildLocked(owner, t)
	}
	return fmt.Errorf("deleting %s: no such resource", id)
}

// IDs lists the ids of all resources of a type (any case), in order of creation.
func (s *Sim) IDs(typ string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	var ids []string
	for _, r := range s.byType[strings.ToLower(typ)] {
		if !r.gone {
			ids = append(ids, r.id)
		}
	}
	return ids
}

// Writes counts the writes by clients that were accepted and applied to a resource or to a part of it: a rule's PUT counts for the rule
// and for its NSG. Edits by an outside hand do not count.
func (s *Sim) Writes(resourceID string) int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	return s.writes[strings.ToLower(strings.TrimSuffix(resourceID, "/"))]
}

// Actions returns the actions of Azure's roles that the requests of a principal whose roles are checked needed so far, sorted: those of the
// requests themselves, refused or not, and the join actions on what their bodies refer to. What Resource Graph shows to the principal is
// not among them.
func (s *Sim) Actions(principal string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Sorted(maps.Values(s.used[strings.ToLower(principal)]))
}

func (s *Sim) useLocked(principal, action string) {
	principal = strings.ToLower(principal)
	if s.used == nil {
		s.used = map[string]map[string]string{}
	}
	if s.used[principal] == nil {
		s.used[principal] = map[string]string{}
	}
	s.used[principal][strings.ToLower(action)] = action
}

// RequestRecord is one request as the simulator saw it.
type RequestRecord struct {
	Seq        int       `json:"seq"`
	Time       time.Time `json:"time"` // when it was received, simulated time
	Method     string    `json:"method"`
	Path       string    `json:"path"`
	Query      string    `json:"query,omitempty"`
	APIVersion string    `json:"apiVersion,omitempty"`
	IfMatch    string    `json:"ifMatch,omitempty"`
	Principal  string    `json:"principal,omitempty"`
	Status     int       `json:"status"` // 0: the connection was cut without an answer
	Code       string    `json:"code,omitempty"`
	Fault      string    `json:"fault,omitempty"` // kind of the fault that struck
	RequestID  string    `json:"requestId,omitempty"`
}

// Requests returns the remembered requests, oldest first; control requests are not among them.
func (s *Sim) Requests() []RequestRecord {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.requests) < s.cfg.RequestLog {
		return append([]RequestRecord(nil), s.requests...)
	}
	i := s.logNext % len(s.requests)
	return append(append([]RequestRecord(nil), s.requests[i:]...), s.requests[:i]...)
}

func (s *Sim) recordLocked(r RequestRecord) {
	r.Seq = s.logNext
	if len(s.requests) < s.cfg.RequestLog {
		s.requests = append(s.requests, r)
	} else {
		s.requests[s.logNext%len(s.requests)] = r
	}
	s.logNext++
}

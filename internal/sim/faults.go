package sim

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"regexp"
	"strconv"
	"strings"
	"time"
)

// Fault makes matching requests go wrong. Of the faults that match a request, every edit, slow, stale-read and operation fault acts, and
// the first of the others decides the reply.
//
//	error              answered with Status and an ARM body (Code, Message have defaults by status); carried out first with Applied
//	throttle           429 SubscriptionRequestsThrottled, with Retry-After where RetryAfter is set
//	another-operation  429 RetryableError / RetryableErrorDueToAnotherOperation, never with Retry-After
//	superseded         the write's operation ends Canceled / CanceledAndSupersededDueToAnotherOperation; applied only with Applied
//	operation-failed   the write's operation ends Failed (Code, Message); applied only with Applied
//	operation-stuck    the write is applied and its operation runs for Delay, or until the fault is cleared
//	lost-reply         the request is carried out, then the connection is cut
//	lost-request       the connection is cut before anything happens
//	slow               the request is carried out at once and answered after Delay of real (or synctest) time
//	late               the connection is cut (or hangs, with Hang), and the request is carried out Delay later on the simulated clock
//	stale-read         GET, lists and Resource Graph show resources as they were Versions changes ago (default 1)
//	truncated          the reply breaks off in the middle
//	not-json           the reply is HTML (or Body), with Status where set; the request is carried out
//	clock-skew         the Date header and the times in tokens are off by Skew
//	edit               an outside hand (Edit) is there just before the request
type Fault struct {
	ID          string        `json:"id,omitempty"`          // given back by Fault; made up when empty
	Method      string        `json:"method,omitempty"`      // one or several, comma-separated; empty: any
	PathPattern string        `json:"pathPattern,omitempty"` // regular expression on the path, without case; empty: any
	BodyPattern string        `json:"bodyPattern,omitempty"` // regular expression on the request's body; empty: any
	Count       int           `json:"count,omitempty"`       // how often it strikes; 0: until cleared
	Skip        int           `json:"skip,omitempty"`        // this many matches pass first
	Kind        string        `json:"kind"`
	Status      int           `json:"status,omitempty"`
	Code        string        `json:"code,omitempty"`
	Message     string        `json:"message,omitempty"`
	RetryAfter  time.Duration `json:"-"`
	Delay       time.Duration `json:"-"`
	Applied     bool          `json:"applied,omitempty"`
	Versions    int           `json:"versions,omitempty"`
	Body        string        `json:"body,omitempty"`
	// When: After the arming, on the simulated clock, for For (0: without end), and again every Every, when Count and Skip begin anew.
	// With Probability (0: always) a match strikes by chance. An edit that names its resource, a time and no request acts at that time.
	After       time.Duration `json:"-"`
	For         time.Duration `json:"-"`
	Every       time.Duration `json:"-"`
	Probability float64       `json:"probability,omitempty"`
	Skew        time.Duration `json:"-"`              // of clock-skew: how far Azure's clock is ahead
	Hang        bool          `json:"hang,omitempty"` // no reset: silence until the client gives up
	Edit        *Edit         `json:"edit,omitempty"`
}

// Edit is what an outside hand does to a resource. The parts apply in the order of the fields.
type Edit struct {
	Resource    string           `json:"resource,omitempty"`    // default: the resource that the request is about (the NSG of a rule)
	Delete      bool             `json:"delete,omitempty"`      // the whole resource
	RemoveRules string           `json:"removeRules,omitempty"` // regular expression on rule names, without case
	AddRules    []map[string]any `json:"addRules,omitempty"`    // {"name","properties"}; replaces a rule of that name
	Merge       map[string]any   `json:"merge,omitempty"`       // merged deeply into the body
	Replace     map[string]any   `json:"replace,omitempty"`     // becomes the body
	// Change does the rest, in Go only.
	Change func(body map[string]any) error `json:"-"`
}

type fault struct {
	Fault
	path    *regexp.Regexp
	body    *regexp.Regexp
	matched int
	struck  int
	seen    int // matched and struck, in this round
	hits    int
	armed   time.Time
	round   int64
	rng     *rand.Rand
}

var faultKinds = map[string]bool{}

func init() {
	for _, k := range []string{"error", "throttle", "another-operation", "superseded", "operation-failed", "operation-stuck", "lost-reply",
		"lost-request", "slow", "late", "stale-read", "truncated", "not-json", "edit", "clock-skew"} {
		faultKinds[k] = true
	}
}

// Fault arms a fault and returns its id.
func (s *Sim) Fault(f Fault) (id string, err error) { return s.arm(f, nil) }

// compile checks a fault.
func (f Fault) compile() (*fault, error) {
	if !faultKinds[f.Kind] {
		return nil, fmt.Errorf("unknown fault kind %q", f.Kind)
	}
	if f.Kind == "error" && (f.Status < 400 || f.Status > 599) {
		return nil, fmt.Errorf("a fault of kind error needs a status of 400 to 599, got %d", f.Status)
	}
	if f.Kind == "edit" && f.Edit == nil {
		return nil, errors.New("a fault of kind edit needs an edit")
	}
	if f.Edit != nil {
		if _, err := regexp.Compile(f.Edit.RemoveRules); err != nil {
			return nil, fmt.Errorf("removeRules: %w", err)
		}
	}
	if f.Kind == "clock-skew" && f.Skew == 0 {
		return nil, errors.New("a fault of kind clock-skew needs a skew")
	}
	if f.Count < 0 || f.Skip < 0 || f.Delay < 0 || f.After < 0 || f.For < 0 || f.Every < 0 {
		return nil, errors.New("count, skip, delay, after, for and every cannot be negative")
	}
	if f.Every > 0 && f.Every < time.Millisecond {
		return nil, errors.New("every cannot be shorter than a millisecond")
	}
	if f.Probability < 0 || f.Probability > 1 {
		return nil, fmt.Errorf("probability is 0 to 1, got %v", f.Probability)
	}
	re, err := regexp.Compile("(?i)" + f.PathPattern)
	if err != nil {
		return nil, fmt.Errorf("pathPattern: %w", err)
	}
	body, err := regexp.Compile(f.BodyPattern)
	if err != nil {
		return nil, fmt.Errorf("bodyPattern: %w", err)
	}
	return &fault{Fault: f, path: re, body: body, round: -1}, nil
}

func (s *Sim) arm(in Fault, rng *rand.Rand) (id string, err error) {
	f, err := in.compile()
	if err != nil {
		return "", err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.faultSeq++
	if f.ID == "" {
		f.ID = "fault-" + strconv.Itoa(s.faultSeq)
	}
	f.armed, f.rng = s.nowLocked(), rng
	if rng == nil {
		f.rng = rand.New(rand.NewPCG(s.cfg.Seed, uint64(s.faultSeq)))
	}
	s.faults = append(s.faults, f)
	if f.byClock() {
		s.actByClockLocked(f, f.armed.Add(f.After))
	}
	return f.ID, nil
}

// ClearFaults disarms all faults. Operations that a fault kept stuck end.
func (s *Sim) ClearFaults() { s.clear("") }

// ClearFault disarms one fault; it reports whether there was one.
func (s *Sim) ClearFault(id string) bool { return s.clear(id) }

func (s *Sim) clear(id string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	var left []*fault
	for _, f := range s.faults {
		if id != "" && f.ID != id {
			left = append(left, f)
		}
	}
	found := len(left) != len(s.faults)
	s.faults = left
	for _, op := range s.ops {
		if op.stuck != "" && (id == "" || op.stuck == id) {
			found = true
			s.endLocked(op, "Succeeded", nil)
		}
	}
	return found
}

// FaultStatus is an armed fault and how often it has struck.
type FaultStatus struct {
	Fault
	Matched int `json:"matched"`
	Struck  int `json:"struck"`
}

// Faults lists the armed faults. One that has struck Count times stays listed, and matches nothing more.
func (s *Sim) Faults() []FaultStatus {
	s.mu.Lock()
	defer s.mu.Unlock()
	out := make([]FaultStatus, 0, len(s.faults))
	for _, f := range s.faults {
		out = append(out, FaultStatus{f.Fault, f.matched, f.struck})
	}
	return out
}

func (f *fault) matches(r *request, now time.Time) bool {
	if f.byClock() || !f.due(now) || f.Count > 0 && f.hits >= f.Count {
		return false
	}
	if f.Method != "" {
		hit := false
		for m := range strings.SplitSeq(f.Method, ",") {
			hit = hit || strings.EqualFold(strings.TrimSpace(m), r.method)
		}
		if !hit {
			return false
		}
	}
	if !f.path.MatchString(r.path) || f.BodyPattern != "" && !f.body.Match(r.body) {
		return false
	}
	f.matched++
	if f.seen++; f.seen <= f.Skip {
		return false
	}
	return f.happens()
}

// strikeLocked finds the faults of a request, lets the outside hand act, and returns the fault that decides the reply, if any.
func (s *Sim) strikeLocked(r *request) *fault {
	var main *fault
	now := s.nowLocked()
	for _, f := range s.faults {
		deciding := false
		switch f.Kind {
		case "edit", "slow", "stale-read", "clock-skew", "superseded", "operation-failed", "operation-stuck":
		default:
			deciding = true
		}
		if deciding && main != nil || !f.matches(r, now) {
			continue
		}
		f.struck++
		f.hits++
		switch {
		case f.Kind == "edit":
			if err := s.applyEditLocked(f.Edit, r.path); err != nil {
				s.log.Warn("the outside hand failed", "fault", f.ID, "path", r.path, "error", err)
			}
		case deciding:
			main = f
		default:
			r.struck = append(r.struck, f)
		}
	}
	return main
}

func (s *Sim) applyEditLocked(e *Edit, path string) error {
	id := e.Resource
	if id == "" {
		t, err := parsePath(path)
		if err != nil || t.ns == "" || len(t.names) == 0 {
			return fmt.Errorf("no resource to edit at %s", path)
		}
		id = t.id()
		if s.all[t.key()] == nil && len(t.names) > 1 {
			id = t.top().id()
		}
	}
	if e.Delete {
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
	return s.editLocked(id, e.apply)
}

func (e *Edit) apply(body map[string]any) error {
	if e.Replace != nil {
		clear(body)
		merge(body, e.Replace)
	}
	props := object(body, "properties")
	if props == nil {
		props = map[string]any{}
		body["properties"] = props
	}
	if e.RemoveRules != "" || len(e.AddRules) > 0 {
		var re *regexp.Regexp
		if e.RemoveRules != "" {
			re = regexp.MustCompile("(?i)" + e.RemoveRules) // checked when the fault was armed
		}
		kept := []any{}
		for _, o := range objects(props, "securityRules") {
			drop := re != nil && re.MatchString(text(o, "name"))
			for _, a := range e.AddRules {
				drop = drop || strings.EqualFold(text(a, "name"), text(o, "name"))
			}
			if !drop {
				kept = append(kept, o)
			}
		}
		for _, a := range e.AddRules {
			kept = append(kept, a)
		}
		props["securityRules"] = kept
	}
	merge(body, e.Merge)
	if e.Change != nil {
		return e.Change(body)
	}
	return nil
}

func (f *fault) armError(or *armError) *armError {
	e := *or
	if f.Code != "" {
		e.Code = f.Code
	}
	if f.Message != "" {
		e.Message = f.Message
	}
	return &e
}

// refusal is the error that a fault answers with instead of carrying the request out.
func (f *fault) refusal(s *Sim, r *request) *armError {
	t, _ := parsePath(r.path)
	var e *armError
	switch f.Kind {
	case "throttle":
		wait := ""
		if f.RetryAfter > 0 {
			wait = seconds(f.RetryAfter)
		}
		e = f.armError(throttled(bucketOf(r.method)[:len(bucketOf(r.method))-1], t.sub, r.principal, wait))
	case "another-operation":
		res := s.all[t.key()]
		if res == nil && len(t.names) > 0 {
			res = s.all[t.top().key()]
		}
		guid := "00000000-0000-0000-0000-000000000000"
		if res != nil {
			guid = res.guid()
		}
		name := "PutNetworkSecurityGroupOperation"
		if len(t.types) > 0 {
			name = "Put" + singular(canonicalType(t.typ())[strings.LastIndex(t.typ(), "/")+1:]) + "Operation"
		}
		e = f.armError(anotherOperation(name, s.uuidLocked(), guid))
	case "error":
		d := errorDefaults[f.Status]
		if d.Code == "" {
			d = armError{Code: strings.ReplaceAll(http.StatusText(f.Status), " ", ""), Message: http.StatusText(f.Status) + "."}
		}
		if d.Code == "" || d.Code == "." {
			d = armError{Code: "Error" + strconv.Itoa(f.Status), Message: "Simulated error."}
		}
		switch f.Status {
		case 403:
			d.Message = fmt.Sprintf("The client '%s' with object id '%s' does not have authorization to perform action over scope '%s' or the scope is invalid. If access was recently granted, please refresh your credentials.", r.principal, r.principal, r.path)
		case 404:
			if len(t.names) > 0 {
				d.Message = notFound(t).Message
			}
		case 429:
			d = *throttled(bucketOf(r.method)[:len(bucketOf(r.method))-1], t.sub, r.principal, "")
		}
		d.Status = f.Status
		e = f.armError(&d)
		if f.RetryAfter > 0 {
			e.Header = http.Header{"Retry-After": {seconds(f.RetryAfter)}}
		}
		if f.Status == 401 {
			e.Header = http.Header{"Www-Authenticate": {`Bearer authorization_uri="` + r.base + "/" + TenantID + `", error="invalid_token", error_description="The access token is invalid."`}}
		}
	}
	return e
}

var errorDefaults = map[int]armError{
	400: {Code: "BadRequest", Message: "The request is invalid."},
	401: {Code: "InvalidAuthenticationToken", Message: "The access token is invalid."},
	403: {Code: "AuthorizationFailed"},
	404: {Code: "ResourceNotFound", Message: "The resource was not found."},
	409: {Code: "Conflict", Message: "The request conflicts with the state of the resource."},
	412: {Code: "PreconditionFailed", Message: "Precondition failed.", Details: []armError{{Code: "PreconditionFailedEtagMismatch", Message: "Etag provided in if-match header does not match the etag of the resource in NRP data store."}}},
	500: {Code: "InternalServerError", Message: "An error occurred."},
	502: {Code: "BadGateway", Message: "The gateway got no usable answer."},
	503: {Code: "ServerUnavailable", Message: "The service is unavailable."},
	504: {Code: "GatewayTimeout", Message: "The gateway did not receive a response from 'Microsoft.Network' within the specified time period."},
}

// outcome is the fault that decides how the write's operation ends.
func (r *request) outcome() *fault {
	for _, f := range r.struck {
		switch f.Kind {
		case "superseded", "operation-failed", "operation-stuck":
			return f
		}
	}
	return nil
}

func (r *request) unapplied() bool {
	f := r.outcome()
	return f != nil && f.Kind != "operation-stuck" && !f.Applied
}

func (r *request) stale() int {
	for _, f := range r.struck {
		if f.Kind == "stale-read" {
			return max(1, f.Versions)
		}
	}
	return 0
}

// skew is how far Azure's clock is ahead for this request.
func (r *request) skew() (d time.Duration) {
	for _, f := range r.struck {
		if f.Kind == "clock-skew" {
			d += f.Skew
		}
	}
	return d
}

func (r *request) slow() (d time.Duration) {
	for _, f := range r.struck {
		if f.Kind == "slow" {
			d += f.Delay
		}
	}
	return d
}

// faultJSON is Fault with its durations as "2s" or seconds.
type faultJSON struct {
	*Fault
	RetryAfter jsonDuration `json:"retryAfter,omitempty"`
	Delay      jsonDuration `json:"delay,omitempty"`
	After      jsonDuration `json:"after,omitempty"`
	For        jsonDuration `json:"for,omitempty"`
	Every      jsonDuration `json:"every,omitempty"`
	Skew       jsonDuration `json:"skew,omitempty"`
}

type jsonDuration time.Duration

func (d jsonDuration) MarshalJSON() ([]byte, error) { return json.Marshal(time.Duration(d).String()) }

func (d *jsonDuration) UnmarshalJSON(b []byte) error {
	var v any
	if err := json.Unmarshal(b, &v); err != nil {
		return err
	}
	switch v := v.(type) {
	case float64:
		*d = jsonDuration(v * float64(time.Second))
		return nil
	case string:
		p, err := time.ParseDuration(v)
		*d = jsonDuration(p)
		return err
	}
	return fmt.Errorf("want a duration such as \"2s\" or a number of seconds, got %s", b)
}

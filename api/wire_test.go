package api_test

import (
	"encoding/json"
	"net/netip"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
)

// The names that scripts rely on (DESIGN 7). A change of this text is a change of the API.
func TestAGrantOnTheWire(t *testing.T) {
	at := time.Date(2026, 11, 22, 9, 30, 0, 0, time.UTC)
	g := api.Grant{ID: "g-0123456789", State: access.Active, Request: "r-0123456789", Requester: "alice", VM: api.VMRef{ID: "/x/web-01", Name: "web-01"},
		Port: access.Port(22), Protocol: access.TCP, Source: netip.MustParsePrefix("198.51.100.7/32"), Duration: api.Duration(90 * time.Minute), Ready: true,
		NotBefore: at, StartsAt: at, EndsAt: at.Add(90 * time.Minute), ReadyAt: at, Connect: []string{"203.0.113.5:22"}}
	b, err := json.MarshalIndent(g, "", " ")
	if err != nil {
		t.Fatal(err)
	}
	const want = `{
 "id": "g-0123456789",
 "state": "active",
 "request": "r-0123456789",
 "requester": "alice",
 "vm": {
  "id": "/x/web-01",
  "name": "web-01"
 },
 "port": "22",
 "protocol": "tcp",
 "source": "198.51.100.7/32",
 "duration": "1h30m",
 "ready": true,
 "overdue": false,
 "drifted": false,
 "not_before": "2026-11-22T09:30:00Z",
 "starts_at": "2026-11-22T09:30:00Z",
 "ends_at": "2026-11-22T11:00:00Z",
 "ready_at": "2026-11-22T09:30:00Z",
 "connect": [
  "203.0.113.5:22"
 ]
}`
	if string(b) != want {
		t.Errorf("got %s", b)
	}
	var back api.Grant
	if err := json.Unmarshal(b, &back); err != nil || !reflect.DeepEqual(back, g) {
		t.Errorf("read back: %+v, %v", back, err)
	}
}

// Every type follows the rules of the package comment: snake_case names, and no instant that has not come as 0001-01-01.
func TestEveryTypeKeepsTheRules(t *testing.T) {
	snake := regexp.MustCompile(`^[a-z][a-z0-9]*(_[a-z0-9]+)*$`)
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type, string)
	walk = func(ty reflect.Type, at string) {
		for ty.Kind() == reflect.Pointer || ty.Kind() == reflect.Slice || ty.Kind() == reflect.Map {
			ty = ty.Elem()
		}
		if ty.Kind() != reflect.Struct || seen[ty] || !strings.HasSuffix(ty.PkgPath(), "curfew/api") {
			return
		}
		seen[ty] = true
		for i := range ty.NumField() {
			f := ty.Field(i)
			if f.Anonymous {
				walk(f.Type, at)
				continue
			}
			name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
			if !snake.MatchString(name) {
				t.Errorf("%s.%s is called %q", ty.Name(), f.Name, name)
			}
			if f.Type == reflect.TypeFor[time.Time]() && options != "omitzero" && ty != reflect.TypeFor[api.AuditEntry]() {
				t.Errorf("%s.%s would stand there as 0001-01-01", ty.Name(), f.Name)
			}
			walk(f.Type, at+"."+name)
		}
	}
	for _, v := range []any{api.List[api.VM]{}, api.ProtectInput{}, api.ProtectPlan{}, api.Request{}, api.RequestInput{}, api.RequestPlan{}, api.ReviewInput{}, api.CommentInput{},
		api.ExtendInput{}, api.Grant{}, api.Me{}, api.AuditEntry{}, api.Checkpoint{}, api.Status{}, api.SweepReport{}, api.Readiness{}, api.Problem{}} {
		walk(reflect.TypeOf(v), "")
	}
	if len(seen) < 25 {
		t.Errorf("only %d types were looked at", len(seen))
	}
}

package cli

import (
	"encoding/json"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v4"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/clock"
)

// stopped is a clock that stands.
type stopped struct {
	clock.System
	at time.Time
}

func (f stopped) Now() time.Time { return f.at }

func TestTableAlignsWideAndCombiningText(t *testing.T) {
	tb := newTable("NAME", "EMPTY", "STATE")
	tb.row("web-01", "", "protected")
	tb.row("東京", "", "exposed")
	tb.row("cafe\u0301", "", "x\ny")
	want := "NAME    STATE\nweb-01  protected\n東京    exposed\ncafe\u0301    x\\ny\n"
	if got := tb.String(); got != want {
		t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// What a terminal would obey is escaped in JSON as well, and means the same.
func TestJSONKeepsItsValueWithoutHostileRunes(t *testing.T) {
	in := map[string]string{"a": "x\u202ey\u009bz", "b": "\x1b[1m<&>", "c": "\U000e0001 東京"}
	b, err := marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	if strings.ContainsFunc(strings.ReplaceAll(string(b), "\n", ""), hostile) {
		t.Errorf("hostile runes in %q", b)
	}
	var out map[string]string
	if err := json.Unmarshal(b, &out); err != nil {
		t.Fatal(err)
	}
	for k := range in {
		if in[k] != out[k] {
			t.Errorf("%s: got %q, want %q", k, out[k], in[k])
		}
	}
}

// YAML says what JSON says: the same types, whatever the strings look like.
func TestYAMLReadsBackAsTheSameValue(t *testing.T) {
	in := map[string]any{"port": "22", "range": "8000-8010", "time": "1h", "no": "no", "null": "null", "date": "2026-11-22", "n": 3.0, "ok": true, "none": []any{},
		"items": []any{map[string]any{"id": "g-1e10", "hostile": "a\x1b[31m: #b", "lines": "a\nb", "hex": "0x10", "empty": "", "name": "büro-東京"}}}
	j, err := marshal(in)
	if err != nil {
		t.Fatal(err)
	}
	y, err := toYAML(j)
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(y), "{") || strings.Contains(strings.ReplaceAll(string(y), "[]", ""), "[{") {
		t.Errorf("not in block style:\n%s", y)
	}
	var out any
	if err := yaml.Unmarshal(y, &out); err != nil {
		t.Fatalf("%v in:\n%s", err, y)
	}
	b, err := json.Marshal(out)
	if err != nil {
		t.Fatal(err)
	}
	want, _ := json.Marshal(in)
	if string(b) != string(want) {
		t.Errorf("got  %s\nwant %s\nyaml:\n%s", b, want, y)
	}
	if strings.ContainsRune(string(y), 0x1b) {
		t.Errorf("an escape character went through:\n%q", y)
	}
}

// A grant whose early closing fails is late although its time is not over: no span is below zero.
func TestLateBeforeItsEnd(t *testing.T) {
	now := time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC)
	c := &cli{Env: Env{Clock: stopped{at: now}, Location: time.UTC}}
	g := api.Grant{State: "close_failed", Overdue: true, EndsAt: now.Add(5 * time.Minute)}
	if got := c.grantTime(g); strings.Contains(got, "-") || !strings.Contains(got, "should have shut already") {
		t.Error(got)
	}
	g.EndsAt = now.Add(-time.Minute)
	if got := c.grantTime(g); !strings.Contains(got, "overdue by 1m") {
		t.Error(got)
	}
}

// Only who decided is named as the one who did, and everybody of them; an answer that settled nothing yet is a review and no decision.
func TestDecidedBy(t *testing.T) {
	yes, no := api.Review{Reviewer: "ana", Decision: "approve"}, api.Review{Reviewer: "bo", Decision: "deny", Comment: "not today"}
	for _, c := range []struct {
		state   access.RequestState
		reviews []api.Review
		want    string
	}{
		{access.Pending, []api.Review{yes}, ""},
		{access.Cancelled, []api.Review{yes}, ""},
		{access.Expired, []api.Review{yes}, ""},
		{access.Approved, nil, ""},
		{access.Approved, []api.Review{yes, {Reviewer: "cy", Decision: "approve", Comment: "go on"}}, " by ana, cy: go on"},
		{access.Denied, []api.Review{yes, no}, " by bo: not today"},
	} {
		if got := decidedBy(api.Request{State: c.state, Reviews: c.reviews}); got != c.want {
			t.Errorf("%s: %q, want %q", c.state, got, c.want)
		}
	}
}

// That a machine is open behind broken glass is seen in the list of machines already.
func TestBreakGlassIsSeenAtTheMachine(t *testing.T) {
	v := api.VM{Grants: []api.Grant{{State: access.Active}, {State: access.Active, BreakGlass: true}, {State: access.Ended, BreakGlass: true}}}
	if got := vmWhy(v); got != "open for 2 grants, 1 of them break-glass" {
		t.Error(got)
	}
	if got := vmWhy(api.VM{Grants: v.Grants[:1]}); strings.Contains(got, "glass") {
		t.Error(got)
	}
}

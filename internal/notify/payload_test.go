package notify_test

import (
	"bytes"
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/santhosh-tekuri/jsonschema/v6"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/store/storetest"
)

// What is sent is what the schema promises, by a validator that nobody here wrote, and the schema names every field and every kind.
func TestPayloadsAreThoseOfTheSchema(t *testing.T) {
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(notify.Schema))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	c.AssertFormat()
	if err := c.AddResource("event.json", doc); err != nil {
		t.Fatal(err)
	}
	schema, err := c.Compile("event.json")
	if err != nil {
		t.Fatal(err)
	}
	full := story(notify.RequestApproved, 1, func(r *access.Request) {
		approved(r)
		terms := r.Terms
		r.Reviews[0].Narrowed, r.Reviews[0].Via = &terms, "slack"
		r.StartAt, r.ExpiresAt, r.Ticket, r.Sponsor, r.Extends = storetest.Epoch, storetest.Epoch.Add(time.Hour), "T-1", "carol", "g-0"
	}).Event
	r := full.Request
	full.Installation, full.To = "acme", []string{"bob"}
	full.Grant = &access.Grant{ID: "g-1", Request: "r-1", Requester: "alice", Target: r.Terms.Targets[0], Source: r.Terms.Source, Duration: time.Hour, State: access.Revoked,
		StartsAt: storetest.Epoch, EndsAt: storetest.Epoch, ReadyAt: storetest.Epoch, EndReason: access.ReasonRevoked, EndedBy: "bob", LastError: "late"}
	defs := doc.(map[string]any)["$defs"].(map[string]any)
	var known func(at string, v any, props map[string]any)
	known = func(at string, v any, props map[string]any) {
		for k, x := range v.(map[string]any) {
			p, ok := props[k].(map[string]any)
			if !ok {
				t.Errorf("the schema does not name %s.%s", at, k)
				continue
			}
			if item, ok := p["items"].(map[string]any); ok && item["$ref"] != nil {
				p, x = item, x.([]any)[0]
			}
			if ref, ok := p["$ref"].(string); ok {
				known(k, x, defs[strings.TrimPrefix(ref, "#/$defs/")].(map[string]any)["properties"].(map[string]any))
			}
		}
	}
	kinds := doc.(map[string]any)["properties"].(map[string]any)["type"].(map[string]any)["examples"].([]any)
	for _, k := range append(slices.Clone(notify.Kinds), notify.Test) {
		if !slices.Contains(kinds, any(string(k))) {
			t.Errorf("the schema does not name the kind %s", k)
		}
		full.Kind = k
		for _, e := range []notify.Event{full, {Kind: k, At: storetest.Epoch, Actor: "curfew"}} {
			b, err := notify.NewPayload(e).Encode()
			if err != nil {
				t.Fatal(err)
			}
			v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
			if err == nil {
				err = schema.Validate(v)
			}
			if err != nil {
				t.Errorf("%s: %v\n%s", k, err, b)
			}
			known("event", v, doc.(map[string]any)["properties"].(map[string]any))
		}
	}
	var broken map[string]any
	b, _ := notify.NewPayload(full).Encode()
	if err := json.Unmarshal(b, &broken); err != nil {
		t.Fatal(err)
	}
	broken["data"].(map[string]any)["request"].(map[string]any)["duration_seconds"] = "1h"
	if schema.Validate(broken) == nil {
		t.Error("the schema takes everything")
	}
}

// Whatever is told of an access that was opened before anybody agreed says so in its title, which is all that some readers see.
func TestBreakGlassStandsInEveryTitle(t *testing.T) {
	w, err := notify.NewWords("", nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, k := range notify.Kinds {
		r := access.Request{ID: "r-1", Requester: "alice", BreakGlass: true, State: access.Approved}
		e := notify.Event{Kind: k, Actor: "bob", Message: "m", Request: &r}
		switch {
		case strings.HasPrefix(string(k), "grant."):
			e.Request, e.Grant = nil, &access.Grant{ID: "g-1", Requester: "alice", BreakGlass: true}
		case strings.HasPrefix(string(k), "break_glass"), k == notify.RequestCommented:
		default: // a request that broke the glass waits for nobody's answer
			continue
		}
		title, _, _ := w.Write(e)
		if !strings.Contains(title, "glass") {
			t.Errorf("%s: %q", k, title)
		}
		r.BreakGlass = false
		if e.Grant != nil {
			e.Grant.BreakGlass = false
		}
		if title, _, _ = w.Write(e); strings.Contains(title, "(break-glass)") {
			t.Errorf("%s of an ordinary access: %q", k, title)
		}
	}
}

package notify_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/slacksim"
	"github.com/curfew-jit/curfew/internal/store/storetest"
)

// memory is a notify.Memory.
type memory struct {
	mu   sync.Mutex
	docs map[string]json.RawMessage
	fail error
}

func (m *memory) Remembered(_ context.Context, channel, subject string) (json.RawMessage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.docs[channel+"/"+subject], nil
}

func (m *memory) Remember(_ context.Context, channel, subject string, doc json.RawMessage) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.fail == nil {
		m.docs[channel+"/"+subject] = doc
	}
	return m.fail
}

func words(t testing.TB, own ...notify.Template) *notify.Words {
	t.Helper()
	w, err := notify.NewWords("https://curfew.example.com", own)
	if err != nil {
		t.Fatal(err)
	}
	return w
}

func slack(t testing.TB, s *slacksim.Slack, m notify.Memory, own ...notify.Template) *notify.Slack {
	t.Helper()
	ch, err := notify.NewSlack(notify.SlackOptions{Name: "ops", API: s.URL, Token: secretFile(t, s.Token), Channel: s.Channel, Interactive: true, Words: words(t, own...),
		Guard: notify.Guard{Allow: loopback}, Memory: m, Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	return ch
}

// story returns a notice about a request in a state.
func story(kind notify.Kind, minute int, change func(*access.Request)) notify.Notice {
	n := storetest.Notice(fmt.Sprintf("n-%d", minute), "ops", "r-1", storetest.Epoch)
	r := *n.Event.Request
	r.State, r.Version = access.Pending, int64(minute)
	r.Terms.Duration = 2 * time.Hour
	if change != nil {
		change(&r)
	}
	n.Event.Kind, n.Event.At, n.Event.Request = kind, storetest.Epoch.Add(time.Duration(minute)*time.Minute), &r
	return n
}

func send(t *testing.T, ch notify.Channel, n notify.Notice) string {
	t.Helper()
	note, err := ch.Send(t.Context(), n)
	if err != nil {
		t.Fatal(err)
	}
	return note
}

func approved(r *access.Request) {
	r.State, r.DecidedAt = access.Approved, storetest.Epoch
	r.Reviews = []access.Review{{Reviewer: "bob", Decision: access.Approve, Comment: "go on"}}
}

func TestSlackKeepsOneMessageForARequest(t *testing.T) {
	s := startSlack(t)
	defer s.Close()
	mem := &memory{docs: map[string]json.RawMessage{}}
	ch := slack(t, s, mem)
	send(t, ch, story(notify.RequestCreated, 1, nil))
	ms := s.Messages()
	if len(ms) != 1 {
		t.Fatalf("%d messages, rejected %v", len(ms), s.Rejected())
	}
	b := ms[0].Buttons()
	r := story(notify.RequestCreated, 1, nil).Event.Request
	if b["approve"] != "1|r-1|"+r.Digest()+"|0" || b["approve_less"] != "1|r-1|"+r.Digest()+"|1800" || b["deny"] == "" {
		t.Errorf("buttons %v", b)
	}
	for _, want := range []string{r.Requester + " asks for ", "Why\n" + r.Reason, "From\n" + r.Terms.Source.String(), "For\n2h", "Lets in\nport", "Must agree\n", "Open\n"} {
		if !strings.Contains(ms[0].Shown(), want) {
			t.Errorf("the message lacks %q:\n%s", want, ms[0].Shown())
		}
	}
	send(t, ch, story(notify.RequestReminder, 2, nil))
	if ms = s.Messages(); len(ms) != 2 || ms[1].Thread != ms[0].TS || len(ms[0].Buttons()) == 0 {
		t.Fatalf("a reminder is a reply in the thread, and the buttons stay: %+v", ms)
	}
	send(t, ch, story(notify.RequestApproved, 3, approved))
	ms = s.Messages()
	if len(ms) != 2 || ms[0].Edits != 2 || ms[0].Buttons()["approve"] != "" || ms[0].Buttons()["deny"] != "" || !strings.Contains(ms[0].Shown(), "approved by bob") || !strings.Contains(ms[0].Shown(), "go on") {
		t.Errorf("after the decision the buttons are gone and who decided stands there:\n%s\n%v", ms[0].Shown(), ms[0].Buttons())
	}
	g := access.Grant{ID: "g-1", Request: "r-1", Requester: "alice", Target: r.Terms.Targets[0], Source: r.Terms.Source, Duration: time.Hour, State: access.Active,
		ReadyAt: storetest.Epoch, StartsAt: storetest.Epoch, EndsAt: storetest.Epoch.Add(time.Hour)}
	ready := story(notify.GrantReady, 4, nil)
	ready.Event.Request, ready.Event.Grant = nil, &g
	send(t, ch, ready)
	ms = s.Messages()
	if !strings.Contains(ms[0].Shown(), "is open until") || !strings.Contains(ms[0].Shown(), "approved by bob") || len(ms) != 3 {
		t.Errorf("what became of the grant stands in the same message:\n%s", ms[0].Shown())
	}
	// A dead letter that is tried again late does not bring the buttons back.
	if note := send(t, ch, story(notify.RequestCreated, 1, nil)); note == "" {
		t.Error("nobody hears that it was too late")
	}
	if ms = s.Messages(); len(ms) != 3 || ms[0].Buttons()["approve"] != "" {
		t.Errorf("an old notice changed the message: %v", ms[0].Buttons())
	}
	// Somebody removes the message: it is posted anew.
	s.Delete(ms[0].TS)
	g.State, g.EndReason = access.Ended, access.ReasonTimeOver
	over := story(notify.GrantOver, 9, nil)
	over.Event.Request, over.Event.Grant = nil, &g
	send(t, ch, over)
	ms = s.Messages()
	if last := ms[len(ms)-1]; last.Thread != "" || !strings.Contains(last.Shown(), "is ended") {
		t.Errorf("after it was removed: %s", last.Shown())
	}
	for _, why := range s.Rejected() {
		if why != "message_not_found" {
			t.Errorf("Slack refused a message: %s", why)
		}
	}
}

func TestWhatSlackAnswers(t *testing.T) {
	s := startSlack(t)
	defer s.Close()
	mem := &memory{docs: map[string]json.RawMessage{}}
	ch := slack(t, s, mem)
	for _, c := range []struct {
		fault slacksim.Fault
		want  string
		final bool
		after time.Duration
	}{
		{slacksim.Fault{Status: 429, After: "30"}, "it answered 429", false, 30 * time.Second},
		{slacksim.Fault{Error: "ratelimited", After: "7"}, "Slack says ratelimited", false, 7 * time.Second},
		{slacksim.Fault{Error: "invalid_auth"}, "Slack says invalid_auth", false, 0},
		{slacksim.Fault{Error: "invalid_blocks"}, "Slack says invalid_blocks", true, 0},
		{slacksim.Fault{Status: 500, Error: "internal_error"}, "it answered 500", false, 0},
		{slacksim.Fault{Lost: true}, "the connection was cut", false, 0},
	} {
		s.Fail(c.fault)
		_, err := ch.Send(t.Context(), story(notify.RequestCreated, 1, nil))
		var f *notify.Failure
		if !errors.As(err, &f) || !strings.HasPrefix(f.Message, c.want) || f.Final != c.final || f.After != c.after {
			t.Errorf("%+v: got %+v", c.fault, err)
		}
		if err != nil && strings.Contains(err.Error(), s.Token) {
			t.Errorf("the error holds the token: %v", err)
		}
	}
	mem.fail = errors.New("disk full")
	var f *notify.Failure
	if _, err := ch.Send(t.Context(), story(notify.RequestCreated, 1, nil)); !errors.As(err, &f) || f.Final {
		t.Errorf("a message whose place is not written down: %v", err)
	}
	if _, err := notify.NewSlack(notify.SlackOptions{Name: "x", Token: secretFile(t, "t"), Channel: "#ops", Words: words(t), Clock: clock.System{}}); err == nil {
		t.Error("a channel's name is taken for its id")
	}
}

// hostile is what somebody may write as a reason.
const hostile = "<!channel> <@U123|boss> <https://evil.example|click> *bold* _x_ @here https://evil.example/a \u202Egnp.exe\u200B\u2066 \x1b[31m\r\nApproved by: bob `code` &lt;!here&gt; :sos:"

func TestHostileReasonsAreOnlyText(t *testing.T) {
	s := startSlack(t)
	defer s.Close()
	ch := slack(t, s, &memory{docs: map[string]json.RawMessage{}}, notify.Template{Title: "*{{.Who}}* {{.Reason}}", Body: "{{.Reason}} {{.Message}}"})
	n := story(notify.RequestCreated, 1, func(r *access.Request) { r.Reason, r.Requester = hostile, "<!everyone>" })
	n.Event.Message = hostile
	send(t, ch, n)
	m := s.Messages()[0]
	var check func(v any)
	check = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if v["type"] == "mrkdwn" {
				if v["verbatim"] != true || strings.ContainsAny(v["text"].(string), "<>") || strings.Contains(v["text"].(string), "&lt;!here&gt;") {
					t.Errorf("markup of others: %v", v)
				}
			}
			if v["type"] == "plain_text" && v["emoji"] != false {
				t.Errorf("emoji of others: %v", v)
			}
			for _, x := range v {
				check(x)
			}
		case []any:
			for _, x := range v {
				check(x)
			}
		case string:
			if strings.ContainsAny(v, "\u202E\u200B\u2066\x1b\r\n") {
				t.Errorf("control characters in %q", v)
			}
		}
	}
	for _, b := range m.Blocks {
		check(b)
	}
	if strings.ContainsAny(m.Text, "<>") {
		t.Errorf("the text for previews: %q", m.Text)
	}
	long := story(notify.RequestCreated, 2, func(r *access.Request) {
		r.Reason = strings.Repeat("&<>", 5000)
		for i := range 40 {
			r.Comments = append(r.Comments, access.Comment{By: "x", Text: fmt.Sprint(i) + strings.Repeat("ä", 4000)})
			r.Reviews = append(r.Reviews, access.Review{Reviewer: "y", Comment: strings.Repeat("z", 4000)})
		}
	})
	long.Subject = "r-long"
	send(t, ch, long)
	if len(s.Rejected()) > 0 {
		t.Errorf("Slack refuses %v", s.Rejected())
	}
}

func verifier(t testing.TB, secrets ...string) *notify.SlackVerifier {
	t.Helper()
	var fs []notify.SecretFile
	for _, s := range secrets {
		fs = append(fs, secretFile(t, s))
	}
	v, err := notify.NewSlackVerifier(fs)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

// The example of Slack's own documentation.
func TestTheSignatureIsThatOfSlacksDocumentation(t *testing.T) {
	body := "token=xyzz0WbapA4vBCDEFasx0q6G&team_id=T1DC2JH3J&team_domain=testteamnow&channel_id=G8PSS9T3V&channel_name=foobar&user_id=U2CERLKJA&user_name=roadrunner&command=%2Fwebhook-collect&text=&response_url=https%3A%2F%2Fhooks.slack.com%2Fcommands%2FT1DC2JH3J%2F397700885554%2F96rGlfmibIGlgcZRskXaIFfN&trigger_id=398738663015.47445629121.803a0bc887a14d10d2c447fce8b6703c"
	h := http.Header{}
	h.Set("X-Slack-Request-Timestamp", "1531420618")
	h.Set("X-Slack-Signature", "v0=a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503")
	v := verifier(t, "8f742231b10e8888abcd99yyyzzz85a5")
	now := time.Unix(1531420618, 0)
	if err := v.Verify(h, []byte(body), now.Add(4*time.Minute)); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name   string
		change func(h http.Header, body *string, now *time.Time)
	}{
		{"a second time", func(http.Header, *string, *time.Time) {}},
		{"too old", func(_ http.Header, _ *string, now *time.Time) { *now = now.Add(301 * time.Second) }},
		{"from the future", func(_ http.Header, _ *string, now *time.Time) { *now = now.Add(-301 * time.Second) }},
		{"another body", func(_ http.Header, b *string, _ *time.Time) { *b += "x" }},
		{"another time", func(h http.Header, _ *string, _ *time.Time) { h.Set("X-Slack-Request-Timestamp", "1531420619") }},
		{"a time in another form", func(h http.Header, _ *string, _ *time.Time) { h.Set("X-Slack-Request-Timestamp", "+1531420618") }},
		{"no signature", func(h http.Header, _ *string, _ *time.Time) { h.Del("X-Slack-Signature") }},
		{"two signatures", func(h http.Header, _ *string, _ *time.Time) { h.Add("X-Slack-Signature", "v0=00") }},
		{"another version", func(h http.Header, _ *string, _ *time.Time) {
			h.Set("X-Slack-Signature", strings.Replace(h.Get("X-Slack-Signature"), "v0", "v1", 1))
		}},
		{"a short signature", func(h http.Header, _ *string, _ *time.Time) { h.Set("X-Slack-Signature", "v0=a2114d") }},
	} {
		hc, bc, nc := h.Clone(), body, now
		c.change(hc, &bc, &nc)
		use := v
		if c.name != "a second time" {
			use = verifier(t, "8f742231b10e8888abcd99yyyzzz85a5")
		}
		if use.Verify(hc, []byte(bc), nc) == nil {
			t.Errorf("%s is taken", c.name)
		}
	}
	if verifier(t, "another-secret").Verify(h, []byte(body), now) == nil {
		t.Error("another app's secret is taken")
	}
	if err := verifier(t, "another-secret", "8f742231b10e8888abcd99yyyzzz85a5").Verify(h, []byte(body), now); err != nil {
		t.Errorf("the second of two apps: %v", err)
	}
	upper := h.Clone()
	upper.Set("X-Slack-Signature", "v0="+strings.ToUpper("a2114d57b48eac39b9ad189dd8316235a7b4a8d21a10bd27519666489c69b503"))
	if v.Verify(upper, []byte(body), now) == nil {
		t.Error("the same signature in capitals is another one")
	}
}

func TestPressesThatAreNotOurs(t *testing.T) {
	digest := strings.Repeat("ab", 16)
	press := func(f func(p map[string]any)) []byte {
		p := map[string]any{"type": "block_actions", "team": map[string]any{"id": "T1"}, "user": map[string]any{"id": "U1", "team_id": "T2", "username": "boss"},
			"response_url": "https://hooks.slack.com/x", "actions": []any{map[string]any{"type": "button", "action_id": "approve", "value": "1|r-1|" + digest + "|0"}}}
		if f != nil {
			f(p)
		}
		b, _ := json.Marshal(p)
		return []byte(url.Values{"payload": {string(b)}}.Encode())
	}
	p, err := notify.ParseSlackPress(press(nil))
	if err != nil || p.Team != "T2" || p.User != "U1" || p.Decision != access.Approve || p.Value.Request != "r-1" || p.Value.Digest != digest {
		t.Fatalf("%+v, %v: the workspace is that of who pressed", p, err)
	}
	action := func(id, value string) func(map[string]any) {
		return func(p map[string]any) {
			p["actions"] = []any{map[string]any{"type": "button", "action_id": id, "value": value}}
		}
	}
	bad := map[string]func(map[string]any){
		"nobody":               func(p map[string]any) { delete(p, "user") },
		"a user in small":      func(p map[string]any) { p["user"] = map[string]any{"id": "u1", "team_id": "T1"} },
		"a user with a colon":  func(p map[string]any) { p["user"] = map[string]any{"id": "U1:U2", "team_id": "T1"} },
		"no workspace":         func(p map[string]any) { delete(p, "team"); p["user"] = map[string]any{"id": "U1"} },
		"no digest":            action("approve", "1|r-1||0"),
		"half a digest":        action("approve", "1|r-1|abab|0"),
		"more time":            action("approve", "1|r-1|"+digest+"|99"),
		"less, without a time": action("approve_less", "1|r-1|"+digest+"|0"),
		"no request":           action("approve", "1||"+digest+"|0"),
		"another id":           action("deny", "1|g-1|"+digest+"|0"),
		"a path":               action("deny", "1|r-../x|"+digest+"|0"),
		"a form of its own":    action("deny", "1|r-1|"+digest+"|00"),
		"negative":             action("approve_less", "1|r-1|"+digest+"|-5"),
		"another version":      action("approve", "2|r-1|"+digest+"|0"),
		"nothing":              action("approve", ""),
	}
	for name, f := range bad {
		if p, err := notify.ParseSlackPress(press(f)); err == nil {
			t.Errorf("%s is taken: %+v", name, p)
		}
	}
	for _, body := range []string{"", "payload=", "payload=x", "payload={}&payload={}", "x=y", "payload=%zz", "payload=[]", "payload=" + strings.Repeat("a", 600<<10)} {
		if p, err := notify.ParseSlackPress([]byte(body)); err == nil {
			t.Errorf("%.40q is taken: %+v", body, p)
		}
	}
	for name, f := range map[string]func(map[string]any){
		"another button": action("open", ""), "a view": func(p map[string]any) { p["type"] = "view_submission" },
		"two actions": func(p map[string]any) {
			p["actions"] = append(slices.Clone(p["actions"].([]any)), p["actions"].([]any)[0])
		},
		"a menu": func(p map[string]any) { p["actions"].([]any)[0].(map[string]any)["type"] = "static_select" },
	} {
		if p, err := notify.ParseSlackPress(press(f)); err != nil || !p.Other || p.Decision != "" {
			t.Errorf("%s: %+v, %v", name, p, err)
		}
	}
}

func FuzzSlackPress(f *testing.F) {
	s := startSlack(f)
	defer s.Close()
	f.Add(s.Payload(slacksim.Message{TS: "1.1", Blocks: []map[string]any{{"type": "actions", "elements": []any{map[string]any{"action_id": "approve", "value": "1|r-1|" + strings.Repeat("ab", 16) + "|0"}}}}}, "approve", "U1"))
	f.Add([]byte("payload={}"))
	f.Fuzz(func(t *testing.T, body []byte) {
		p, err := notify.ParseSlackPress(body)
		if err != nil || p.Other {
			if p.Decision != "" && err != nil {
				t.Errorf("an error with a decision: %+v", p)
			}
			return
		}
		if p.Team == "" || p.User == "" || !strings.HasPrefix(string(p.Value.Request), "r-") || len(p.Value.Digest) != 32 || p.Value.For < 0 ||
			p.Decision != access.Approve && p.Decision != access.Deny {
			t.Errorf("taken: %+v", p)
		}
	})
}

func TestAnswersGoToSlackAlone(t *testing.T) {
	s := startSlack(t)
	defer s.Close()
	own := notify.NewSlackResponder(s.URL, notify.Guard{Allow: loopback})
	real := notify.NewSlackResponder("", notify.Guard{Allow: loopback})
	for _, to := range []string{"https://hooks.slack.com.evil.example/x", "https://evil.example/hooks.slack.com", "http://127.0.0.1:1/x", "https://hooks.slack.com@evil.example/", "", "https://hooks.slack.com:8443/x",
		strings.Replace(s.URL, "http://", "https://", 1)} {
		if err := real.Respond(t.Context(), to, notify.SlackResponse{Text: "x"}); err == nil {
			t.Errorf("an answer went to %s", to)
		}
	}
	if err := own.Respond(t.Context(), "https://hooks.slack.com/x", notify.SlackResponse{Text: "x"}); err == nil {
		t.Error("with an API of its own answers go there alone")
	}
}

// startSlack starts a stand-in for Slack; it is closed by whoever asked.
func startSlack(t testing.TB) *slacksim.Slack {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return slacksim.New(l, clock.System{}.Now)
}

// Before the end people are told how to get more time, and how to say that they are done.
func TestEndingSaysWhatToDo(t *testing.T) {
	s := startSlack(t)
	defer s.Close()
	g := access.Grant{ID: "g-0123456789", Request: "r-0123456789", Requester: "alice", State: access.Active, EndsAt: storetest.Epoch.Add(10 * time.Minute), Duration: time.Hour}
	n := storetest.Notice("n-1", "ops", "r-0123456789", storetest.Epoch)
	n.Event = notify.Event{Kind: notify.GrantEnding, At: storetest.Epoch, Actor: "curfew", Message: "g-0123456789 ends at 10:00", Grant: &g}
	if _, err := slack(t, s, &memory{docs: map[string]json.RawMessage{}}).Send(t.Context(), n); err != nil {
		t.Fatal(err)
	}
	shown := ""
	for _, m := range s.Messages() {
		shown += m.Text + m.Shown()
	}
	for _, want := range []string{"curfew grant extend g-0123456789 --for 30m", "curfew grant close g-0123456789"} {
		if !strings.Contains(shown, want) {
			t.Errorf("%q is not said in %q", want, shown)
		}
	}
}

package app_test

import (
	"net"
	"net/netip"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/app"
	"github.com/curfew-jit/curfew/internal/client"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/slacksim"
)

// as is a client of a demo's account.
func as(t *testing.T, a *app.App, name string) *client.Client {
	t.Helper()
	c, err := client.New(client.Options{Server: a.URL, As: name})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func must[T any](t *testing.T) func(T, error) T {
	return func(v T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// until waits for something that happens in another goroutine.
func until(t *testing.T, what string, f func() bool) {
	t.Helper()
	for range 200 {
		if f() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	t.Fatalf("it did not happen: %s", what)
}

// The whole way of an approval in Slack, over a workspace that checks what Slack would: who presses is somebody here only once they
// have said so themselves, signed in; and then no more than they are.
func TestAnApprovalInSlack(t *testing.T) {
	s := startSlack(t)
	defer s.Close()
	a, err := startServer(t, config.Notify{Channels: []config.NotifyChannel{{Name: "ops", Type: "slack", All: true, API: s.URL, SlackChannel: s.Channel,
		TokenFile: secretFile(t, s.Token), SigningFile: secretFile(t, s.Secret), AllowPrivate: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}}})
	if err != nil {
		t.Fatal(err)
	}
	must[api.ProtectPlan](t)(as(t, a, "admin").Protect(t.Context(), api.ProtectInput{VMs: []string{"web-01"}}))
	ask := func(d time.Duration) (api.Request, slacksim.Message) {
		t.Helper()
		before := len(s.Messages())
		r := must[api.Request](t)(as(t, a, "requester").CreateRequest(t.Context(), api.RequestInput{VMs: []string{"web-01"}, Source: "203.0.113.9", Duration: api.Duration(d),
			Reason: "INC-4711 <!channel>"}, ""))
		var m slacksim.Message
		until(t, "the message about "+r.ID, func() bool {
			for _, m = range s.Messages()[before:] {
				if strings.Contains(m.Buttons()["approve"], r.ID) {
					return true
				}
			}
			return false
		})
		return r, m
	}
	target := a.URL + "/v1/slack/actions"
	press := func(m slacksim.Message, action, user string) slacksim.Answer {
		t.Helper()
		n := len(s.Answers())
		if code, err := s.Press(t.Context(), target, m, action, user, time.Now()); err != nil || code != 200 {
			t.Fatalf("a press: %d, %v", code, err)
		}
		until(t, "an answer to the press", func() bool {
			as := s.Answers()
			return len(as) > n && as[len(as)-1].Ephemeral
		})
		got := s.Answers()
		return got[len(got)-1]
	}
	state := func(id string) api.Request {
		t.Helper()
		return must[api.Request](t)(as(t, a, "admin").Request(t.Context(), id))
	}
	r, m := ask(2 * time.Hour)
	if strings.Contains(m.Text, "<!channel>") {
		t.Errorf("a mention in the message: %s", m.Text)
	}

	// Somebody whom Slack calls by the name of an approver is nobody here.
	answer := press(m, "approve", "U0000000001")
	code := regexp.MustCompile(`curfew link slack (\S+)`).FindStringSubmatch(answer.Text)
	if code == nil || state(r.ID).State != access.Pending {
		t.Fatalf("an unknown user: %q, request %s", answer.Text, state(r.ID).State)
	}
	link := func(name, user, code string) {
		t.Helper()
		l := must[api.Link](t)(as(t, a, name).Link(t.Context(), api.LinkInput{Kind: "slack", Code: code}))
		if l.User != user || l.Team != s.Team || l.Person != name {
			t.Fatalf("the code is of %+v", l)
		}
		must[api.Link](t)(as(t, a, name).Link(t.Context(), api.LinkInput{Kind: "slack", Code: code, Confirm: l.ID}))
	}
	link("both", "U0000000001", code[1])

	// Linked, they are who they are: an approver.
	if answer = press(m, "approve_less", "U0000000001"); !strings.Contains(answer.Text, "You approved "+r.ID+" of requester for 30m") {
		t.Errorf("the answer to who pressed: %q", answer.Text)
	}
	got := state(r.ID)
	if got.State != access.Approved || time.Duration(got.Terms.Duration) != 30*time.Minute || got.Reviews[0].Reviewer != "both" {
		t.Errorf("the request is %+v", got)
	}
	until(t, "the buttons go, and who decided stands there", func() bool {
		for _, x := range s.Messages() {
			if x.TS == m.TS {
				return x.Buttons()["approve"] == "" && strings.Contains(x.Shown(), "approved by both")
			}
		}
		return false
	})
	if answer = press(m, "deny", "U0000000001"); !strings.Contains(answer.Text, "approved already by both") {
		t.Errorf("the old buttons once more: %q", answer.Text)
	}
	log := must[api.List[api.AuditEntry]](t)(as(t, a, "admin").Audit(t.Context(), client.AuditFilter{Action: "request.approve", Object: r.ID}))
	if len(log.Items) != 1 || log.Items[0].Actor != "both" || log.Items[0].Detail["via"] != "slack" {
		t.Errorf("the log: %+v", log.Items)
	}

	// P6 holds there as well, and so does the role.
	r, m = ask(time.Hour)
	answer = press(m, "approve", "U0000000002")
	link("requester", "U0000000002", regexp.MustCompile(`slack (\S+)\n`).FindStringSubmatch(answer.Text)[1])
	if answer = press(m, "approve", "U0000000002"); !strings.Contains(answer.Text, "Nothing was done") || !strings.Contains(answer.Text, "approver") || state(r.ID).State != access.Pending {
		t.Errorf("a requester approves: %q", answer.Text)
	}
	own := must[api.Request](t)(as(t, a, "both").CreateRequest(t.Context(), api.RequestInput{VMs: []string{"web-01"}, Source: "203.0.113.77", Duration: api.Duration(time.Hour), Reason: "mine"}, ""))
	var mine slacksim.Message
	until(t, "the message about one's own", func() bool {
		for _, mine = range s.Messages() {
			if strings.Contains(mine.Buttons()["approve"], own.ID) {
				return true
			}
		}
		return false
	})
	if answer = press(mine, "approve", "U0000000001"); !strings.Contains(answer.Text, "nobody decides on their own request") || state(own.ID).State != access.Pending {
		t.Errorf("one's own: %q", answer.Text)
	}

	// What was shown is not what is there any more: refused, and shown again as it is.
	changed := m
	changed.Blocks = []map[string]any{{"type": "actions", "elements": []any{map[string]any{"action_id": "approve", "value": "1|" + r.ID + "|" + strings.Repeat("00", 16) + "|0"}}}}
	edits := func() int {
		for _, x := range s.Messages() {
			if x.TS == m.TS {
				return x.Edits
			}
		}
		return -1
	}
	was := edits()
	if answer = press(changed, "approve", "U0000000001"); !strings.Contains(answer.Text, "has changed since") || state(r.ID).State != access.Pending || edits() != was+1 {
		t.Errorf("something else than was shown: %q, %d edits", answer.Text, edits()-was)
	}
	if answer = press(m, "deny", "U0000000001"); !strings.Contains(answer.Text, "You denied "+r.ID) || state(r.ID).State != access.Denied {
		t.Errorf("denying: %q", answer.Text)
	}

	// Calls that are not Slack's.
	body := s.Payload(m, "approve", "U0000000001")
	now := time.Now()
	for _, c := range []struct {
		name string
		body []byte
		at   time.Time
		want int
	}{{"the first time", body, now, 200}, {"again", body, now, 401}, {"an old one", s.Payload(m, "approve", "U0000000001"), now.Add(-6 * time.Minute), 401},
		{"no press", []byte("payload=x"), now, 400}, {"too large", []byte("payload=" + strings.Repeat("x", 600<<10)), now, 413}} {
		if code, err := s.Send(t.Context(), target, c.body, c.at); err != nil || code != c.want {
			t.Errorf("%s: %d, %v; want %d", c.name, code, err, c.want)
		}
	}
	secret := s.Secret
	s.Secret = "another"
	if code, _ := s.Press(t.Context(), target, m, "approve", "U0000000001", time.Now()); code != 401 {
		t.Errorf("signed with another secret: %d", code)
	}
	s.Secret = secret
	if len(s.Rejected()) > 0 {
		t.Errorf("Slack refused %v", s.Rejected())
	}
}

func startSlack(t *testing.T) *slacksim.Slack {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return slacksim.New(l, clock.System{}.Now)
}

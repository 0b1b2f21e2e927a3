package notify_test

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/store/storetest"
)

// checkCard holds a message against the rules of adaptive cards 1.4 and of Teams, for those elements that there are in it; an
// element that the rules here do not know fails.
func checkCard(t *testing.T, b []byte) (shown []string) {
	t.Helper()
	if len(b) > 28<<10 {
		t.Errorf("%d bytes, and Teams takes 28 KiB", len(b))
	}
	known := func(at string, m map[string]any, required string, optional string) {
		t.Helper()
		for _, k := range strings.Fields(required) {
			if _, ok := m[k]; !ok {
				t.Errorf("%s lacks %s", at, k)
			}
		}
		for k := range m {
			if !slices.Contains(strings.Fields(required+" "+optional), k) {
				t.Errorf("%s holds %s, which there is not", at, k)
			}
		}
	}
	oneOf := func(at string, v any, values string) {
		t.Helper()
		if s, ok := v.(string); v != nil && (!ok || !slices.Contains(strings.Fields(values), s)) {
			t.Errorf("%s is %v", at, v)
		}
	}
	var m map[string]any
	if err := json.Unmarshal(b, &m); err != nil {
		t.Fatal(err)
	}
	known("message", m, "type attachments", "")
	as := m["attachments"].([]any)
	if m["type"] != "message" || len(as) != 1 {
		t.Fatalf("the message is %v", m["type"])
	}
	a := as[0].(map[string]any)
	known("attachment", a, "contentType contentUrl content", "")
	if a["contentType"] != "application/vnd.microsoft.card.adaptive" || a["contentUrl"] != nil {
		t.Errorf("the attachment is %v", a)
	}
	c := a["content"].(map[string]any)
	known("card", c, "$schema type version body", "actions fallbackText")
	if c["type"] != "AdaptiveCard" || c["version"] != "1.4" {
		t.Errorf("the card is %v %v", c["type"], c["version"])
	}
	for _, x := range c["body"].([]any) {
		e := x.(map[string]any)
		known("block", e, "type inlines", "spacing separator")
		oneOf("type", e["type"], "RichTextBlock")
		oneOf("spacing", e["spacing"], "Default None Small Medium Large ExtraLarge Padding")
		line := ""
		for _, y := range e["inlines"].([]any) {
			r := y.(map[string]any)
			known("run", r, "type text", "weight size isSubtle")
			oneOf("type", r["type"], "TextRun")
			oneOf("weight", r["weight"], "Default Lighter Bolder")
			oneOf("size", r["size"], "Default Small Medium Large ExtraLarge")
			if r["text"] == "" {
				t.Error("a run without text")
			}
			line += r["text"].(string)
		}
		shown = append(shown, line)
	}
	if acts, ok := c["actions"].([]any); ok {
		for _, x := range acts {
			known("action", x.(map[string]any), "type title url", "")
			oneOf("action", x.(map[string]any)["type"], "Action.OpenUrl")
		}
		if len(acts) == 0 || len(acts) > 6 {
			t.Errorf("%d actions", len(acts))
		}
	}
	return shown
}

func TestTeams(t *testing.T) {
	var got []byte
	status, answer := http.StatusAccepted, ""
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got, _ = io.ReadAll(r.Body)
		if r.URL.Path != "/workflows/x/triggers/manual/paths/invoke" || r.URL.Query().Get("sig") != "hunter2" || r.Header.Get("Content-Type") != "application/json" {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	defer srv.Close()
	ch, err := notify.NewTeams(notify.TeamsOptions{Name: "teams", URL: secretFile(t, srv.URL+"/workflows/x/triggers/manual/paths/invoke?api-version=2016-06-01&sig=hunter2\n"), Words: words(t),
		Guard: notify.Guard{Allow: loopback}, Clock: clock.System{}})
	if err != nil {
		t.Fatal(err)
	}
	send(t, ch, story(notify.RequestCreated, 1, nil))
	shown := strings.Join(checkCard(t, got), "\n")
	for _, want := range []string{"asks for", "Why: ", "From: ", "For: 2h", "Lets in: port", "Must agree: "} {
		if !strings.Contains(shown, want) {
			t.Errorf("the card lacks %q:\n%s", want, shown)
		}
	}
	if !strings.Contains(string(got), `"url":"https://curfew.example.com/requests/r-1"`) {
		t.Errorf("the card has no link: %s", got)
	}
	send(t, ch, story(notify.RequestApproved, 2, approved))
	if shown = strings.Join(checkCard(t, got), "\n"); !strings.Contains(shown, "Decided: approved by bob") {
		t.Errorf("the card of a decision:\n%s", shown)
	}
	for _, k := range append(slices.Clone(notify.Kinds), notify.Test) { // every kind, with nothing but a message
		send(t, ch, notify.Notice{ID: "n-1", Event: notify.Event{Kind: k, At: storetest.Epoch, Message: "m", Actor: "curfew"}})
		checkCard(t, got)
	}
	for _, c := range []struct {
		status int
		answer string
		want   string
		after  time.Duration
	}{{429, "", "it answered 429", 0}, {502, "", "it answered 502", 0}, {200, "Webhook message delivery failed with error: Microsoft Teams endpoint returned HTTP error 429", "Teams did not take", 0}} {
		status, answer = c.status, c.answer
		_, err := ch.Send(t.Context(), story(notify.RequestCreated, 1, nil))
		var f *notify.Failure
		if !errors.As(err, &f) || !strings.HasPrefix(f.Message, c.want) || strings.Contains(f.Error(), "hunter2") {
			t.Errorf("%d %s: %v", c.status, c.answer, err)
		}
	}
	srv.Close()
	if _, err := ch.Send(t.Context(), story(notify.RequestCreated, 1, nil)); err == nil || strings.Contains(err.Error(), "hunter2") || strings.Contains(err.Error(), "/workflows") {
		t.Errorf("a target that is gone: %v", err)
	}
	for _, u := range []string{"http://example.com/?sig=hunter2", "https://10.0.0.1/?sig=hunter2", "hunter2"} {
		if _, err := notify.NewTeams(notify.TeamsOptions{Name: "x", URL: secretFile(t, u), Words: words(t), Clock: clock.System{}}); err == nil || strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: %v", u, err)
		}
	}
}

func TestCardsOfHostileAndLargeRequests(t *testing.T) {
	n := story(notify.RequestCreated, 1, func(r *access.Request) {
		r.Reason, r.Requester = hostile+" [click](https://evil.example) <at>boss</at>", "**boss**"
	})
	b, err := notify.TeamsCard(words(t), n.Event)
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range checkCard(t, b) {
		if strings.ContainsAny(line, "\u202E\u200B\u2066\x1b\r\n") {
			t.Errorf("control characters in %q", line)
		}
	}
	large := story(notify.RequestCreated, 1, func(r *access.Request) {
		for range 500 {
			r.Comments = append(r.Comments, access.Comment{By: "x", Text: strings.Repeat("\U0001F600\"\\", 1000)})
		}
	})
	if b, err = notify.TeamsCard(words(t), large.Event); err != nil {
		t.Fatal(err)
	}
	if shown := strings.Join(checkCard(t, b), "\n"); !strings.Contains(shown, "Why: ") {
		t.Errorf("what matters was dropped:\n%.300s", shown)
	}
}

// Values of others never become more than text, whatever the channel and the template.
func FuzzWords(f *testing.F) {
	f.Add(hostile)
	f.Add("{{.Who}} {{template \"x\"}} %s %!d &amp;lt;!channel&amp;gt;")
	f.Add("\xff\xfe\u2028\u2029\U000E0041")
	w, err := notify.NewWords("", []notify.Template{{Title: "{{.Reason}}", Body: "{{.Reason}}|{{upper .Reason}}|{{clip 5 .Reason}}"}})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, s string) {
		n := story(notify.RequestCreated, 1, func(r *access.Request) { r.Reason, r.Requester, r.Ticket = s, s, s })
		n.Event.Message = s
		title, body, v := w.Write(n.Event)
		for _, x := range []string{title, v.Reason, v.Who, v.Message} {
			for _, r := range x {
				if r < ' ' || r == 0x7f || r >= 0x80 && r < 0xa0 || r >= 0x202a && r <= 0x202e || r >= 0x2066 && r <= 0x2069 || r == 0x2028 || r == 0x2029 || r == 0x200b || r == 0xfeff {
					t.Errorf("%q holds %U", x, r)
				}
			}
		}
		_ = body
		if again := notify.SlackEscape(v.Reason); strings.ContainsAny(again, "<>") {
			t.Errorf("markup for Slack: %q", again)
		}
		b, err := notify.TeamsCard(w, n.Event)
		if err != nil || !json.Valid(b) || len(b) > 28<<10 {
			t.Errorf("a card: %d bytes, %v", len(b), err)
		}
	})
}

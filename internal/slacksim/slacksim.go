// Package slacksim stands in for Slack: a server that checks what Slack's documentation says that Slack checks, keeps messages, and
// presses buttons with signed calls. The demo has one, with a page to look at and to press on; tests use the same. It shares no code
// with what it checks.
package slacksim

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"
	"unicode/utf8"
)

// Slack is a workspace with one app in it.
type Slack struct {
	URL     string // of the Web API
	Token   string // of the bot
	Secret  string // with which presses are signed
	Team    string
	Channel string

	// Target is where presses on the page go: the app's Interactivity Request URL. Users may press there, by name.
	Target string
	Users  []string

	srv      *http.Server
	page     string
	now      func() time.Time
	mu       sync.Mutex
	n        int
	messages map[string]*Message
	order    []string
	answers  []Answer
	urls     map[string]press // by token of the response URL
	fail     []Fault
	rejected []string
	calls    int
}

// Fault is how one call is answered instead.
type Fault struct {
	Status int    // 0: 200
	Error  string // of the JSON body
	After  string // Retry-After
	Lost   bool   // the call is done, and the connection cut
}

// Message is what stands in the channel.
type Message struct {
	TS, Thread, Text string
	Blocks           []map[string]any
	Edits            int
}

// Answer is what an app sent to a response URL.
type Answer struct {
	TS        string // of the message whose button was pressed
	User      string // who pressed it
	Ephemeral bool
	Replace   bool
	Text      string
}

// press is one whose answers are awaited.
type press struct{ ts, user string }

// New starts one on a listener, which it closes at the end; now dates the presses on its page.
func New(l net.Listener, now func() time.Time) *Slack {
	s := &Slack{Token: "xoxb-test-token", Secret: "8f742231b10e8888abcd99yyyzzz85a5", Team: "T0123456789", Channel: "C0123456789", messages: map[string]*Message{}, urls: map[string]press{}, now: now}
	mux := http.NewServeMux()
	s.pages(mux)
	mux.HandleFunc("POST /api/chat.postMessage", s.api(s.postMessage))
	mux.HandleFunc("POST /api/chat.update", s.api(s.update))
	mux.HandleFunc("POST /actions/{token}", s.respond)
	s.page = "http://" + l.Addr().String()
	s.URL = s.page + "/api"
	s.srv = &http.Server{Handler: mux, ReadHeaderTimeout: 10 * time.Second}
	go func() { _ = s.srv.Serve(l) }() // ends with Close
	return s
}

// Page is the URL of what a person can look at.
func (s *Slack) Page() string { return s.page + "/" }

// UserID is the id of a user of that name.
func UserID(name string) string {
	return "U0" + strings.ToUpper(strings.Map(func(r rune) rune {
		if r >= 'a' && r <= 'z' || r >= '0' && r <= '9' {
			return r
		}
		return -1
	}, strings.ToLower(name)))
}

// Close ends it.
func (s *Slack) Close() { _ = s.srv.Close() }

// Fail has the next calls answered so, one each.
func (s *Slack) Fail(f ...Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail = append(s.fail, f...)
}

// Messages returns what stands in the channel, oldest first.
func (s *Slack) Messages() (out []Message) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, ts := range s.order {
		if m := s.messages[ts]; m != nil {
			out = append(out, *m)
		}
	}
	return out
}

// Delete removes a message, as a person may.
func (s *Slack) Delete(ts string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.messages, ts)
}

// Answers returns what came to response URLs.
func (s *Slack) Answers() []Answer {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Answer(nil), s.answers...)
}

// Rejected returns why calls were refused.
func (s *Slack) Rejected() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]string(nil), s.rejected...)
}

func (s *Slack) api(f func(map[string]any) (map[string]any, string)) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
		s.mu.Lock()
		defer s.mu.Unlock()
		s.calls++
		var fault *Fault
		if len(s.fail) > 0 {
			fault, s.fail = &s.fail[0], s.fail[1:]
		}
		if fault != nil && !fault.Lost {
			if fault.After != "" {
				w.Header().Set("Retry-After", fault.After)
			}
			w.Header().Set("Content-Type", "application/json")
			w.WriteHeader(max(fault.Status, 200))
			fmt.Fprintf(w, `{"ok":false,"error":%q}`, fault.Error)
			return
		}
		out, code := map[string]any(nil), ""
		var in map[string]any
		switch {
		case r.Header.Get("Authorization") == "":
			code = "not_authed"
		case r.Header.Get("Authorization") != "Bearer "+s.Token:
			code = "invalid_auth"
		case !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json"):
			code = "invalid_post_type"
		case json.Unmarshal(body, &in) != nil:
			code = "invalid_json"
		default:
			out, code = f(in)
		}
		if fault != nil {
			if c, _, err := http.NewResponseController(w).Hijack(); err == nil {
				c.Close()
			}
			return
		}
		if code != "" {
			s.rejected = append(s.rejected, code)
			out = map[string]any{"ok": false, "error": code}
		} else {
			out["ok"] = true
		}
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(out)
	}
}

func text(v any) string { s, _ := v.(string); return s }

func (s *Slack) postMessage(in map[string]any) (map[string]any, string) {
	if text(in["channel"]) != s.Channel {
		return nil, "channel_not_found"
	}
	m, code := message(in)
	if code != "" {
		return nil, code
	}
	if m.Thread != "" && s.messages[m.Thread] == nil {
		return nil, "thread_not_found"
	}
	s.n++
	m.TS = fmt.Sprintf("1700000000.%06d", s.n)
	s.messages[m.TS] = &m
	s.order = append(s.order, m.TS)
	return map[string]any{"channel": s.Channel, "ts": m.TS}, ""
}

func (s *Slack) update(in map[string]any) (map[string]any, string) {
	if text(in["channel"]) != s.Channel {
		return nil, "channel_not_found"
	}
	old := s.messages[text(in["ts"])]
	if old == nil {
		return nil, "message_not_found"
	}
	m, code := message(in)
	if code != "" {
		return nil, code
	}
	old.Text, old.Blocks = m.Text, m.Blocks
	old.Edits++
	return map[string]any{"channel": s.Channel, "ts": old.TS, "text": old.Text}, ""
}

// message checks a message by the limits that Slack documents for its blocks.
func message(in map[string]any) (Message, string) {
	m := Message{Text: text(in["text"]), Thread: text(in["thread_ts"])}
	if utf8.RuneCountInString(m.Text) > 40_000 {
		return m, "msg_too_long"
	}
	blocks, _ := in["blocks"].([]any)
	if len(blocks) == 0 && m.Text == "" {
		return m, "no_text"
	}
	if len(blocks) > 50 {
		return m, "invalid_blocks"
	}
	for _, b := range blocks {
		block, _ := b.(map[string]any)
		if block == nil || !goodBlock(block) {
			return m, "invalid_blocks"
		}
		m.Blocks = append(m.Blocks, block)
	}
	return m, ""
}

func goodBlock(b map[string]any) bool {
	list := func(key string) []any { l, _ := b[key].([]any); return l }
	switch text(b["type"]) {
	case "header":
		return goodText(b["text"], 150, "plain_text")
	case "section":
		fields := list("fields")
		if b["text"] == nil && len(fields) == 0 || len(fields) > 10 {
			return false
		}
		if b["text"] != nil && !goodText(b["text"], 3000, "plain_text", "mrkdwn") {
			return false
		}
		for _, f := range fields {
			if !goodText(f, 2000, "plain_text", "mrkdwn") {
				return false
			}
		}
		return true
	case "context":
		es := list("elements")
		for _, e := range es {
			if !goodText(e, 3000, "plain_text", "mrkdwn") {
				return false
			}
		}
		return len(es) >= 1 && len(es) <= 10
	case "actions":
		es, ids := list("elements"), map[string]bool{}
		for _, e := range es {
			el, _ := e.(map[string]any)
			id := text(el["action_id"])
			if text(el["type"]) != "button" || !goodText(el["text"], 75, "plain_text") || len(text(el["value"])) > 2000 || len(text(el["url"])) > 3000 ||
				id == "" || len(id) > 255 || ids[id] || !strings.Contains("||primary|danger|", "|"+text(el["style"])+"|") {
				return false
			}
			ids[id] = true
		}
		return len(es) >= 1 && len(es) <= 25
	case "divider":
		return true
	}
	return false
}

func goodText(v any, longest int, types ...string) bool {
	t, _ := v.(map[string]any)
	s := text(t["text"])
	if t == nil || s == "" || utf8.RuneCountInString(s) > longest {
		return false
	}
	if _, ok := t["verbatim"]; ok && text(t["type"]) != "mrkdwn" {
		return false
	}
	if _, ok := t["emoji"]; ok && text(t["type"]) != "plain_text" {
		return false
	}
	for _, k := range types {
		if text(t["type"]) == k {
			return true
		}
	}
	return false
}

// respond takes what an app sends to a response URL: at most five times for each press.
func (s *Slack) respond(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20))
	s.mu.Lock()
	defer s.mu.Unlock()
	from, ok := s.urls[r.PathValue("token")]
	ts := from.ts
	var in map[string]any
	if !ok || json.Unmarshal(body, &in) != nil {
		s.rejected = append(s.rejected, "an answer to no press")
		w.WriteHeader(http.StatusNotFound)
		return
	}
	m, code := message(in)
	if code != "" {
		s.rejected = append(s.rejected, code)
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	replace, _ := in["replace_original"].(bool)
	s.answers = append(s.answers, Answer{TS: ts, User: from.user, Ephemeral: text(in["response_type"]) == "ephemeral", Replace: replace, Text: m.Text})
	if old := s.messages[ts]; old != nil && replace {
		old.Text, old.Blocks = m.Text, m.Blocks
		old.Edits++
	}
	w.WriteHeader(http.StatusOK)
}

// Buttons returns the ids of a message's buttons, and what they carry.
func (m Message) Buttons() map[string]string {
	out := map[string]string{}
	for _, b := range m.Blocks {
		if text(b["type"]) != "actions" {
			continue
		}
		es, _ := b["elements"].([]any)
		for _, e := range es {
			el, _ := e.(map[string]any)
			out[text(el["action_id"])] = text(el["value"])
		}
	}
	return out
}

// Shown returns every text of a message, a line each.
func (m Message) Shown() string {
	var b strings.Builder
	var walk func(any)
	walk = func(v any) {
		switch v := v.(type) {
		case map[string]any:
			if t, ok := v["text"].(string); ok {
				b.WriteString(t + "\n")
			} else {
				walk(v["text"])
			}
			walk(v["fields"])
			walk(v["elements"])
		case []any:
			for _, x := range v {
				walk(x)
			}
		}
	}
	for _, block := range m.Blocks {
		walk(block)
	}
	return b.String()
}

// Payload is the body that Slack sends when a user presses a button of a message.
func (s *Slack) Payload(m Message, action, user string) []byte {
	s.mu.Lock()
	s.n++
	token := fmt.Sprintf("r%d", s.n)
	s.urls[token] = press{m.TS, user}
	s.mu.Unlock()
	p := map[string]any{"type": "block_actions", "team": map[string]any{"id": s.Team, "domain": "acme"},
		"user":    map[string]any{"id": user, "username": "the-boss", "name": "the-boss", "team_id": s.Team},
		"channel": map[string]any{"id": s.Channel}, "container": map[string]any{"type": "message", "message_ts": m.TS, "channel_id": s.Channel},
		"api_app_id": "A0123456789", "trigger_id": "1.2.3", "response_url": s.page + "/actions/" + token,
		"actions": []any{map[string]any{"type": "button", "action_id": action, "block_id": "b", "value": m.Buttons()[action], "action_ts": "1700000001.000000"}}}
	b, _ := json.Marshal(p)
	return []byte(url.Values{"payload": {string(b)}}.Encode())
}

// Press presses a button as Slack does: with a signed call to the app's URL, to be answered within three seconds. It returns the
// status.
func (s *Slack) Press(ctx context.Context, target string, m Message, action, user string, now time.Time) (int, error) {
	return s.Send(ctx, target, s.Payload(m, action, user), now)
}

// Send sends a body, signed.
func (s *Slack) Send(ctx context.Context, target string, body []byte, now time.Time) (int, error) {
	at := strconv.FormatInt(now.Unix(), 10)
	mac := hmac.New(sha256.New, []byte(s.Secret))
	fmt.Fprintf(mac, "v0:%s:%s", at, body)
	ctx, cancel := context.WithTimeout(ctx, 3*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, target, bytes.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("X-Slack-Request-Timestamp", at)
	req.Header.Set("X-Slack-Signature", "v0="+hex.EncodeToString(mac.Sum(nil)))
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	return res.StatusCode, nil
}

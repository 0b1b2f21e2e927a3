package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/clock"
)

// SlackAPI is where Slack's Web API is.
const SlackAPI = "https://slack.com/api"

// Memory keeps, for a channel and a subject, where its message is.
type Memory interface {
	// Remembered returns what was remembered last, nil if nothing was.
	Remembered(ctx context.Context, channel, subject string) (json.RawMessage, error)
	Remember(ctx context.Context, channel, subject string, doc json.RawMessage) error
}

// SlackOptions are what a Slack channel needs.
type SlackOptions struct {
	Name        string
	API         string     // "": SlackAPI
	Token       SecretFile // of the bot: xoxb-…
	Channel     string     // id of the channel, as C0123456789
	Interactive bool       // with buttons: the server takes their presses
	Words       *Words
	Guard       Guard
	Memory      Memory
	Clock       clock.Clock
}

// Slack keeps one message a request, and changes it in place as the request goes on. What somebody is to notice although the message
// stands there already, a reminder for one, comes as a reply in its thread.
type Slack struct {
	opt    SlackOptions
	api    string
	words  *Words
	client *http.Client
}

// NewSlack makes a Slack channel, or says what is wrong with its options.
func NewSlack(o SlackOptions) (*Slack, error) {
	if o.API == "" {
		o.API = SlackAPI
	}
	u, err := o.Guard.ParseTarget(o.API)
	if err != nil {
		return nil, fmt.Errorf("the API's URL: %w", err)
	}
	if u.RawQuery != "" {
		return nil, errors.New("the API's URL has a query")
	}
	if _, err := o.Token.One(); err != nil {
		return nil, fmt.Errorf("the token: %w", err)
	}
	if !slackID(o.Channel, "CGD") {
		return nil, fmt.Errorf("the channel %q is not the id of one, as C0123456789", o.Channel)
	}
	return &Slack{opt: o, api: strings.TrimRight(u.String(), "/"), words: o.Words.escaping(mrkdwn), client: o.Guard.Client()}, nil
}

// slackID tells whether s is an id of Slack's: one of the letters, and then letters and digits.
func slackID(s, letters string) bool {
	return len(s) >= 2 && len(s) <= 32 && strings.Contains(letters, s[:1]) &&
		!strings.ContainsFunc(s, func(r rune) bool { return !(r >= 'A' && r <= 'Z' || r >= '0' && r <= '9') })
}

// Name implements Channel.
func (s *Slack) Name() string { return s.opt.Name }

// slackMessage is where the message about a request is, and what it says.
type slackMessage struct {
	Channel string                             `json:"channel"`
	TS      string                             `json:"ts"`
	At      time.Time                          `json:"at"` // of the newest event that it tells
	Request *access.Request                    `json:"request,omitempty"`
	Grants  map[access.GrantID]slackGrantState `json:"grants,omitempty"`
}

type slackGrantState struct {
	At   time.Time `json:"at"`
	Text string    `json:"text"`
}

// aside are the kinds that come as a reply as well: a message that is changed in place makes no sound.
var aside = []Kind{RequestReminder, RequestEscalated, RequestCommented, BreakGlassOpen, GrantOverdue, GrantFailed, GrantEnding, GrantReady}

// Send implements Channel.
func (s *Slack) Send(ctx context.Context, n Notice) (string, error) {
	token, err := s.opt.Token.One()
	if err != nil {
		return "", secretFailure(err)
	}
	e := n.Event
	if e.Request == nil && e.Grant == nil {
		_, _, err := s.post(ctx, token, s.plainMessage(e), "")
		return "", err
	}
	var m slackMessage
	doc, err := s.opt.Memory.Remembered(ctx, s.opt.Name, n.Subject)
	if err != nil {
		return "", &Failure{Message: "where its message is could not be read", Mine: true, Err: err}
	}
	if doc != nil && json.Unmarshal(doc, &m) != nil {
		m = slackMessage{}
	}
	if m.Channel != s.opt.Channel && m.Channel != "" && !slackID(m.Channel, "CGD") {
		m = slackMessage{}
	}
	older := e.At.Before(m.At) // a dead letter that was tried again
	s.take(&m, e)
	note := ""
	switch {
	case m.TS == "":
		if m.Channel, m.TS, err = s.post(ctx, token, s.requestMessage(e, m), ""); err != nil {
			return "", err
		}
	case older:
		note = "a newer message stands there already"
	default:
		err := s.update(ctx, token, m, s.requestMessage(e, m))
		if slackErrorIs(err, "message_not_found", "cant_update_message", "edit_window_closed", "channel_not_found") {
			m.Channel, m.TS, err = s.post(ctx, token, s.requestMessage(e, m), "") // somebody removed it, or it belongs to another app
		} else if err == nil && slices.Contains(aside, e.Kind) {
			_, _, err = s.post(ctx, token, s.plainMessage(e), m.TS)
		}
		if err != nil {
			return "", err
		}
	}
	if e.At.After(m.At) {
		m.At = e.At
	}
	doc, err = json.Marshal(m)
	if err == nil {
		err = s.opt.Memory.Remember(ctx, s.opt.Name, n.Subject, doc)
	}
	if err != nil {
		return "", &Failure{Message: "where its message is could not be written down", Mine: true, Err: err}
	}
	return note, nil
}

// take brings what the message says up to date with an event. Of two states of a request the newer one counts.
func (s *Slack) take(m *slackMessage, e Event) {
	if r := e.Request; r != nil && (m.Request == nil || r.Version >= m.Request.Version) {
		m.Request = r
	}
	if g := e.Grant; g != nil {
		if m.Grants == nil {
			m.Grants = map[access.GrantID]slackGrantState{}
		}
		if old, ok := m.Grants[g.ID]; !ok || !e.At.Before(old.At) {
			m.Grants[g.ID] = slackGrantState{At: e.At, Text: grantLine(*g)}
		}
	}
}

func grantLine(g access.Grant) string {
	what := g.Target.String() + " is " + strings.ReplaceAll(string(g.State), "_", " ")
	switch {
	case g.Ready():
		what = g.Target.String() + " is open until " + access.Clock(g.EndsAt)
	case g.State == access.Revoked && g.EndedBy != "":
		what += " by " + g.EndedBy
	}
	return plain(what, texts)
}

// slackError is what Slack says is wrong.
type slackError struct{ code string }

func (e slackError) Error() string { return "Slack says " + e.code }

func slackErrorIs(err error, codes ...string) bool {
	var e slackError
	return errors.As(err, &e) && slices.Contains(codes, e.code)
}

// neverAgain are errors that the same message meets each time.
var neverAgain = []string{"invalid_blocks", "invalid_blocks_format", "msg_too_long", "no_text", "too_many_attachments", "msg_blocks_too_long"}

func (s *Slack) post(ctx context.Context, token string, m SlackMessage, thread string) (channel, ts string, err error) {
	m.Channel, m.ThreadTS = s.opt.Channel, thread
	var out struct{ Channel, TS string }
	if err := s.call(ctx, token, "chat.postMessage", m, &out); err != nil {
		return "", "", err
	}
	if out.TS == "" {
		return "", "", &Failure{Message: "Slack's answer names no message"}
	}
	if out.Channel == "" {
		out.Channel = s.opt.Channel
	}
	return out.Channel, out.TS, nil
}

func (s *Slack) update(ctx context.Context, token string, at slackMessage, m SlackMessage) error {
	m.Channel, m.TS = at.Channel, at.TS
	return s.call(ctx, token, "chat.update", m, nil)
}

// call calls a method of the Web API. Slack answers 200 to what it refuses as well.
func (s *Slack) call(ctx context.Context, token, method string, in, out any) error {
	b, err := json.Marshal(in)
	if err != nil {
		return &Failure{Message: "the message cannot be written as JSON", Final: true, Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, s.api+"/"+method, bytes.NewReader(b))
	if err != nil {
		return &Failure{Message: "the call cannot be made", Final: true, Err: withoutURL(err)}
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	req.Header.Set("Authorization", "Bearer "+token)
	res, err := s.client.Do(req)
	if err != nil {
		return callFailure(err)
	}
	body := answerBody(res)
	if res.StatusCode != http.StatusOK {
		return statusFailure(res.StatusCode, res.Header, s.opt.Clock.Now())
	}
	var answer struct {
		OK    bool   `json:"ok"`
		Error string `json:"error"`
	}
	if err := json.Unmarshal(body, &answer); err != nil {
		return &Failure{Message: "what answers is not Slack's API"}
	}
	if !answer.OK {
		code := plain(answer.Error, 60)
		f := &Failure{Message: "Slack says " + code, Final: slices.Contains(neverAgain, code), Err: slackError{code}}
		if code == "ratelimited" {
			f.After = max(retryAfter(res.Header, s.opt.Clock.Now()), time.Second)
		}
		return f
	}
	if out != nil {
		if err := json.Unmarshal(body, out); err != nil {
			return &Failure{Message: "Slack's answer is not readable", Err: err}
		}
	}
	return nil
}

// SlackResponder answers presses of buttons, at the URL that came with each.
type SlackResponder struct {
	client *http.Client
	hosts  []string
	guard  Guard
}

// NewSlackResponder makes one that answers to Slack's own host, and to that of a configured API.
func NewSlackResponder(api string, g Guard) *SlackResponder {
	r := &SlackResponder{client: g.Client(), hosts: []string{"hooks.slack.com"}, guard: g}
	if u, err := url.Parse(api); err == nil && api != "" && api != SlackAPI {
		r.hosts = []string{u.Host}
	}
	return r
}

// Respond sends a message to where a press came from. The URL came with the press: it is used only if it leads to Slack.
func (r *SlackResponder) Respond(ctx context.Context, to string, m SlackResponse) error {
	u, err := r.guard.ParseTarget(to)
	if err != nil || !slices.Contains(r.hosts, u.Host) {
		return errors.New("the press names a place for the answer that is not Slack's")
	}
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(b))
	if err != nil {
		return withoutURL(err)
	}
	req.Header.Set("Content-Type", "application/json; charset=utf-8")
	res, err := r.client.Do(req)
	if err != nil {
		return callFailure(err)
	}
	defer res.Body.Close()
	_, _ = io.CopyN(io.Discard, res.Body, maxAnswer)
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("Slack answered %d to an answer", res.StatusCode)
	}
	return nil
}

package notify

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// slackSkew is how far a press's time may be from ours.
const slackSkew = 5 * time.Minute

// SlackVerifier checks that a call comes from Slack: it is signed over the raw body with the app's secret, it is of now, and it has
// not come before. The zero value is not ready; make one with NewSlackVerifier.
type SlackVerifier struct {
	secrets []SecretFile

	mu   sync.Mutex
	seen map[string]time.Time // signatures, and when each is too old to be taken anyway
	most int
}

// NewSlackVerifier makes a verifier for apps with these signing secrets.
func NewSlackVerifier(secrets []SecretFile) (*SlackVerifier, error) {
	for _, f := range secrets {
		if _, err := f.One(); err != nil {
			return nil, err
		}
	}
	return &SlackVerifier{secrets: secrets, seen: map[string]time.Time{}, most: 10_000}, nil
}

// Why a call is not taken for Slack's.
var (
	errSlackForm   = errors.New("the call is not signed as Slack signs")
	errSlackTime   = errors.New("the call is too old, or from the future")
	errSlackSign   = errors.New("the signature is not that of the app")
	errSlackReplay = errors.New("the call has come before")
	errSlackFull   = errors.New("too many calls at once")
)

// Verify checks the headers and the raw body of a call.
func (v *SlackVerifier) Verify(h http.Header, body []byte, now time.Time) error {
	at, given := h.Values("X-Slack-Request-Timestamp"), h.Values("X-Slack-Signature")
	if len(at) != 1 || len(given) != 1 {
		return errSlackForm
	}
	secs, err := strconv.ParseInt(at[0], 10, 64)
	if err != nil || strconv.FormatInt(secs, 10) != at[0] {
		return errSlackForm
	}
	sig, ok := strings.CutPrefix(given[0], "v0=")
	mac, err := hex.DecodeString(sig)
	if !ok || err != nil || len(mac) != sha256.Size {
		return errSlackForm
	}
	if t := time.Unix(secs, 0); secs < 0 || now.Sub(t) > slackSkew || t.Sub(now) > slackSkew {
		return errSlackTime
	}
	good := false
	for _, f := range v.secrets {
		secret, err := f.One()
		if err != nil {
			continue // the others may still do
		}
		good = hmac.Equal(mac, slackMAC(secret, at[0], body)) || good
	}
	if !good {
		return errSlackSign
	}
	return v.remember(hex.EncodeToString(mac), now)
}

func slackMAC(secret, at string, body []byte) []byte {
	m := hmac.New(sha256.New, []byte(secret))
	m.Write([]byte("v0:" + at + ":"))
	m.Write(body)
	return m.Sum(nil)
}

// remember refuses what has come before. Only what is signed gets here, so that nobody else can fill it.
func (v *SlackVerifier) remember(sig string, now time.Time) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	if until, ok := v.seen[sig]; ok && now.Before(until) {
		return errSlackReplay
	}
	if len(v.seen) >= v.most {
		for s, until := range v.seen {
			if !now.Before(until) {
				delete(v.seen, s)
			}
		}
		if len(v.seen) >= v.most {
			return errSlackFull
		}
	}
	v.seen[sig] = now.Add(2*slackSkew + time.Minute)
	return nil
}

// SlackPress is a press of a button.
type SlackPress struct {
	Team, User string // ids; who pressed
	Name       string // what Slack calls them: shown, and never trusted
	Answer     string // where an answer goes
	Decision   access.Decision
	Value      SlackValue
	Other      bool // something else than a decision: there is nothing to do
}

// maxPress bounds the body of a press.
const maxPress = 512 << 10

// ParseSlackPress reads the body of a call from Slack: a form whose payload is JSON. What is not in the form that our own buttons
// have is refused.
func ParseSlackPress(body []byte) (SlackPress, error) {
	bad := func(why string) (SlackPress, error) {
		return SlackPress{}, errors.New("the press is not readable: " + why)
	}
	if len(body) > maxPress {
		return bad("it is too large")
	}
	form, err := url.ParseQuery(string(body))
	if err != nil || len(form["payload"]) != 1 {
		return bad("it is no form with one payload")
	}
	var p struct {
		Type string `json:"type"`
		Team *struct {
			ID string `json:"id"`
		} `json:"team"`
		User struct {
			ID       string `json:"id"`
			TeamID   string `json:"team_id"`
			Name     string `json:"name"`
			Username string `json:"username"`
		} `json:"user"`
		ResponseURL string `json:"response_url"`
		Actions     []struct {
			ActionID string `json:"action_id"`
			Type     string `json:"type"`
			Value    string `json:"value"`
		} `json:"actions"`
	}
	if err := json.Unmarshal([]byte(form.Get("payload")), &p); err != nil {
		return bad("its payload is no JSON")
	}
	out := SlackPress{User: p.User.ID, Team: p.User.TeamID, Answer: p.ResponseURL, Name: plain(p.User.Username, 80)}
	if out.Name == "" {
		out.Name = plain(p.User.Name, 80)
	}
	if out.Team == "" && p.Team != nil {
		out.Team = p.Team.ID
	}
	if !slackID(out.User, "UW") || !slackID(out.Team, "TE") {
		return bad("it does not say who pressed")
	}
	if p.Type != "block_actions" || len(p.Actions) != 1 || p.Actions[0].Type != "button" {
		out.Other = true
		return out, nil
	}
	switch p.Actions[0].ActionID {
	case slackApprove, slackLess:
		out.Decision = access.Approve
	case slackDeny:
		out.Decision = access.Deny
	default:
		out.Other = true
		return out, nil
	}
	if out.Value, err = parseSlackValue(p.Actions[0].Value); err != nil {
		return bad(err.Error())
	}
	if (p.Actions[0].ActionID == slackLess) != (out.Value.For > 0) {
		return bad("the button and what it carries do not fit")
	}
	return out, nil
}

func parseSlackValue(s string) (SlackValue, error) {
	f := strings.Split(s, "|")
	bad := errors.New("what the button carries is not ours")
	if len(s) > 2000 || len(f) != 4 || f[0] != "1" {
		return SlackValue{}, bad
	}
	id, ok := strings.CutPrefix(f[1], "r-")
	if !ok || id == "" || len(id) > 40 || strings.ContainsFunc(id, func(r rune) bool { return !(r >= '0' && r <= '9' || r >= 'a' && r <= 'z') }) {
		return SlackValue{}, bad
	}
	if d, err := hex.DecodeString(f[2]); err != nil || len(d) != 16 { // without one an approval would not be for what was shown
		return SlackValue{}, bad
	}
	secs, err := strconv.ParseUint(f[3], 10, 31)
	if err != nil {
		return SlackValue{}, bad
	}
	v := SlackValue{Request: access.RequestID(f[1]), Digest: f[2], For: time.Duration(secs) * time.Second}
	if v.String() != s {
		return SlackValue{}, bad
	}
	return v, nil
}

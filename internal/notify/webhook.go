package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/clock"
)

// WebhookOptions are what a webhook needs.
type WebhookOptions struct {
	Name   string
	URL    string
	Secret SecretFile // lines of whsec_…; every one of them signs, so that a receiver may change from one to the next
	Guard  Guard
	Clock  clock.Clock
}

// Webhook sends events as JSON, signed as Standard Webhooks says (https://www.standardwebhooks.com).
type Webhook struct {
	opt    WebhookOptions
	url    *url.URL
	client *http.Client
}

// NewWebhook makes a webhook, or says what is wrong with its options.
func NewWebhook(o WebhookOptions) (*Webhook, error) {
	u, err := o.Guard.ParseTarget(o.URL)
	if err != nil {
		return nil, fmt.Errorf("the URL of webhook %s: %w", o.Name, err)
	}
	if _, err := webhookKeys(o.Secret); err != nil {
		return nil, fmt.Errorf("the secret of webhook %s: %w", o.Name, err)
	}
	return &Webhook{opt: o, url: u, client: o.Guard.Client()}, nil
}

// Name implements Channel.
func (w *Webhook) Name() string { return w.opt.Name }

// Send implements Channel.
func (w *Webhook) Send(ctx context.Context, n Notice) (string, error) {
	keys, err := webhookKeys(w.opt.Secret)
	if err != nil {
		return "", secretFailure(err)
	}
	body, err := NewPayload(n.Event).Encode()
	if err != nil {
		return "", &Failure{Message: "the event cannot be written as JSON", Final: true, Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, w.url.String(), bytes.NewReader(body))
	if err != nil {
		return "", &Failure{Message: "the call cannot be made", Final: true, Err: withoutURL(err)}
	}
	now := w.opt.Clock.Now()
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("User-Agent", "curfew-webhook")
	for k, v := range SignWebhook(keys, n.ID, now, body) {
		req.Header[k] = v
	}
	res, err := w.client.Do(req)
	if err != nil {
		return "", callFailure(err)
	}
	answerBody(res)
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return "", statusFailure(res.StatusCode, res.Header, now)
	}
	return "", nil
}

// SignWebhook returns the headers of a message: its id, the time of this attempt, and one signature for each key.
func SignWebhook(keys [][]byte, id string, now time.Time, body []byte) http.Header {
	at := strconv.FormatInt(now.Unix(), 10)
	var sigs []string
	for _, k := range keys {
		m := hmac.New(sha256.New, k)
		m.Write([]byte(id + "." + at + "."))
		m.Write(body)
		sigs = append(sigs, "v1,"+base64.StdEncoding.EncodeToString(m.Sum(nil)))
	}
	h := http.Header{}
	h.Set("webhook-id", id)
	h.Set("webhook-timestamp", at)
	h.Set("webhook-signature", strings.Join(sigs, " "))
	return h
}

func webhookKeys(f SecretFile) ([][]byte, error) {
	lines, err := f.Lines()
	if err != nil {
		return nil, err
	}
	if len(lines) > 5 {
		return nil, fmt.Errorf("%s holds %d secrets: five at most are in use at a time", string(f), len(lines))
	}
	var out [][]byte
	for i, l := range lines {
		k, err := parseWebhookKey(l)
		if err != nil {
			return nil, fmt.Errorf("line %d of %s: %w", i+1, string(f), err)
		}
		out = append(out, k)
	}
	return out, nil
}

func parseWebhookKey(s string) ([]byte, error) {
	rest, ok := strings.CutPrefix(s, "whsec_")
	if !ok {
		return nil, errors.New("a secret begins with whsec_; make one with: echo whsec_$(openssl rand -base64 32)")
	}
	k, err := base64.StdEncoding.DecodeString(rest)
	if err != nil {
		return nil, errors.New("what follows whsec_ is not base64") // the error of the decoder would show where
	}
	if len(k) < 24 || len(k) > 64 {
		return nil, fmt.Errorf("the secret has %d bytes: it must have 24 to 64", len(k))
	}
	return k, nil
}

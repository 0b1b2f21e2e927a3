package notify

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"github.com/curfew-jit/curfew/internal/clock"
)

// TeamsOptions are what a Teams channel needs.
type TeamsOptions struct {
	Name  string
	URL   SecretFile // holds the URL of the workflow, which is its only secret
	Words *Words
	Guard Guard
	Clock clock.Clock
}

// Teams posts adaptive cards through a workflow ("Post to a channel when a webhook request is received").
type Teams struct {
	opt    TeamsOptions
	client *http.Client
}

// NewTeams makes a Teams channel, or says what is wrong with its options.
func NewTeams(o TeamsOptions) (*Teams, error) {
	raw, err := o.URL.One()
	if err != nil {
		return nil, fmt.Errorf("the file with the workflow's URL: %w", err)
	}
	if _, err := o.Guard.ParseTarget(raw); err != nil {
		return nil, fmt.Errorf("the workflow's URL: %w", err)
	}
	return &Teams{opt: o, client: o.Guard.Client()}, nil
}

// Name implements Channel.
func (t *Teams) Name() string { return t.opt.Name }

// Send implements Channel.
func (t *Teams) Send(ctx context.Context, n Notice) (string, error) {
	raw, err := t.opt.URL.One()
	if err != nil {
		return "", secretFailure(err)
	}
	u, err := t.opt.Guard.ParseTarget(raw)
	if err != nil {
		return "", &Failure{Message: "the workflow's URL cannot be used", Err: err}
	}
	body, err := TeamsCard(t.opt.Words, n.Event)
	if err != nil {
		return "", &Failure{Message: "the card cannot be written", Final: true, Err: err}
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, u.String(), bytes.NewReader(body))
	if err != nil {
		return "", &Failure{Message: "the call cannot be made", Final: true, Err: withoutURL(err)}
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := t.client.Do(req)
	if err != nil {
		return "", callFailure(err)
	}
	answer := answerBody(res)
	if res.StatusCode < 200 || res.StatusCode > 299 {
		return "", statusFailure(res.StatusCode, res.Header, t.opt.Clock.Now())
	}
	if bytes.Contains(answer, []byte("endpoint returned HTTP error")) { // what stood before workflows said so with 200
		return "", &Failure{Message: "Teams did not take the card"}
	}
	return "", nil
}

// maxCard is how large a message to Teams may be.
const maxCard = 28 << 10

// Text stands in text runs alone: in them Teams reads neither Markdown nor mentions, whatever somebody wrote as a reason.
type (
	cardRun struct {
		Type   string `json:"type"`
		Text   string `json:"text"`
		Weight string `json:"weight,omitempty"`
		Size   string `json:"size,omitempty"`
		Subtle bool   `json:"isSubtle,omitempty"`
	}
	cardBlock struct {
		Type      string    `json:"type"`
		Inlines   []cardRun `json:"inlines"`
		Spacing   string    `json:"spacing,omitempty"`
		Separator bool      `json:"separator,omitempty"`
	}
	cardAction struct {
		Type  string `json:"type"`
		Title string `json:"title"`
		URL   string `json:"url"`
	}
	card struct {
		Schema   string       `json:"$schema"`
		Type     string       `json:"type"`
		Version  string       `json:"version"`
		Fallback string       `json:"fallbackText"` // it may hold Markdown, and so nothing of others
		Body     []cardBlock  `json:"body"`
		Actions  []cardAction `json:"actions,omitempty"`
	}
	cardAttachment struct {
		ContentType string  `json:"contentType"`
		ContentURL  *string `json:"contentUrl"`
		Content     card    `json:"content"`
	}
	cardMessage struct {
		Type        string           `json:"type"`
		Attachments []cardAttachment `json:"attachments"`
	}
)

// TeamsCard is the message about an event: an adaptive card of version 1.4, no larger than Teams takes.
func TeamsCard(w *Words, e Event) ([]byte, error) {
	title, body, v := w.Write(e)
	facts := v.Facts()
	for {
		c := card{Schema: "http://adaptivecards.io/schemas/adaptive-card.json", Type: "AdaptiveCard", Version: "1.4", Fallback: "A message from Curfew that this program cannot show"}
		c.Body = append(c.Body, cardBlock{Type: "RichTextBlock", Inlines: []cardRun{{Type: "TextRun", Text: dash(runes(title, texts)), Weight: "Bolder", Size: "Medium"}}})
		for line := range strings.Lines(body) {
			if line = strings.TrimSpace(line); line != "" {
				c.Body = append(c.Body, cardBlock{Type: "RichTextBlock", Inlines: []cardRun{{Type: "TextRun", Text: runes(line, 4*texts)}}})
			}
		}
		for i, f := range facts {
			b := cardBlock{Type: "RichTextBlock", Spacing: "Small", Separator: i == 0, Inlines: []cardRun{{Type: "TextRun", Text: f.Label + ": ", Subtle: true}, {Type: "TextRun", Text: f.Value}}}
			c.Body = append(c.Body, b)
		}
		if v.Link != "" {
			c.Actions = []cardAction{{Type: "Action.OpenUrl", Title: "Open", URL: v.Link}}
		}
		out, err := json.Marshal(cardMessage{Type: "message", Attachments: []cardAttachment{{ContentType: "application/vnd.microsoft.card.adaptive", Content: c}}})
		switch {
		case err != nil || len(out) <= maxCard:
			return out, err
		case len(facts) > 0:
			facts = facts[:len(facts)-1] // reviews and comments stand last
		case body != "":
			body = ""
		default:
			return nil, fmt.Errorf("the card has %d bytes, and Teams takes %d", len(out), maxCard)
		}
	}
}

func dash(s string) string {
	if s == "" {
		return "–"
	}
	return s
}

package notify

import (
	"cmp"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// What others wrote stands in texts of the type plain_text, in which Slack reads no markup, no mention and no link. Only the words
// of a configuration's own templates are mrkdwn; in them values are escaped, and verbatim keeps Slack from making links of what
// looks like one.

// SlackMessage is a message as chat.postMessage and chat.update take it.
type SlackMessage struct {
	Channel   string       `json:"channel,omitempty"`
	TS        string       `json:"ts,omitempty"`
	ThreadTS  string       `json:"thread_ts,omitempty"`
	Text      string       `json:"text"`
	Blocks    []SlackBlock `json:"blocks"`
	Parse     string       `json:"parse"`
	LinkNames bool         `json:"link_names"`
	Unfurl    bool         `json:"unfurl_links"`
	Media     bool         `json:"unfurl_media"`
}

// SlackResponse is an answer to a press. Ephemeral ones are seen by who pressed alone.
type SlackResponse struct {
	Type    string       `json:"response_type,omitempty"`
	Replace bool         `json:"replace_original"`
	Text    string       `json:"text"`
	Blocks  []SlackBlock `json:"blocks,omitempty"`
}

// SlackBlock is a block of a message.
type SlackBlock struct {
	Type     string         `json:"type"`
	Text     *SlackText     `json:"text,omitempty"`
	Fields   []SlackText    `json:"fields,omitempty"`
	Elements []SlackElement `json:"elements,omitempty"`
}

// SlackText is a text object.
type SlackText struct {
	Type     string `json:"type"`
	Text     string `json:"text"`
	Verbatim *bool  `json:"verbatim,omitempty"`
	Emoji    *bool  `json:"emoji,omitempty"`
}

// SlackElement is a button, or a text of a context: then Text is a string.
type SlackElement struct {
	Type     string `json:"type"`
	Text     any    `json:"text"`
	ActionID string `json:"action_id,omitempty"`
	Value    string `json:"value,omitempty"`
	URL      string `json:"url,omitempty"`
	Style    string `json:"style,omitempty"`
	Emoji    *bool  `json:"emoji,omitempty"`
}

// Slack's bounds, in characters.
const (
	slackHeader  = 150
	slackField   = 2000
	slackSection = 3000
	slackBlocks  = 50
	slackContext = 10
)

// mrkdwn writes a value down in Slack's markup: without its three signs there is no mention and no link.
func mrkdwn(s string) string {
	return strings.NewReplacer("&", "&amp;", "<", "&lt;", ">", "&gt;").Replace(s)
}

// SlackEscape writes a text down so that Slack reads no mention and no link in it.
func SlackEscape(s string) string { return mrkdwn(s) }

func unMrkdwn(s string) string {
	return strings.NewReplacer("&lt;", "<", "&gt;", ">", "&amp;", "&").Replace(s)
}

func runes(s string, n int) string {
	if r := []rune(s); len(r) > n {
		return string(r[:n-1]) + "…"
	}
	return s
}

func plainText(s string, n int) SlackText {
	no := false
	return SlackText{Type: "plain_text", Text: runes(cmp.Or(s, "–"), n), Emoji: &no}
}

func markup(s string, n int) SlackText {
	yes := true
	return SlackText{Type: "mrkdwn", Text: clipMarkup(s, n), Verbatim: &yes}
}

// clipMarkup cuts without leaving half an entity.
func clipMarkup(s string, n int) string {
	s = cmp.Or(s, "–")
	r := []rune(s)
	if len(r) <= n {
		return s
	}
	r = r[:n-1]
	if i := strings.LastIndexByte(string(r), '&'); i >= 0 && !strings.Contains(string(r)[i:], ";") {
		return string(r)[:i] + "…"
	}
	return string(r) + "…"
}

func slackMessageOf(title string, blocks []SlackBlock) SlackMessage {
	return SlackMessage{Text: clipMarkup(title, slackSection), Blocks: blocks[:min(len(blocks), slackBlocks)], Parse: "none"}
}

// plainMessage is a message that is not changed later.
func (s *Slack) plainMessage(e Event) SlackMessage {
	title, body, v := s.words.Write(e)
	blocks := []SlackBlock{{Type: "header", Text: new(plainText(unMrkdwn(title), slackHeader))}, {Type: "section", Text: new(markup(body, slackSection))}}
	if v.Link != "" {
		blocks = append(blocks, SlackBlock{Type: "actions", Elements: []SlackElement{linkButton(v.Link)}})
	}
	return slackMessageOf(title, blocks)
}

func linkButton(url string) SlackElement {
	return SlackElement{Type: "button", Text: plainText("Open", 75), ActionID: "open", URL: url}
}

// requestMessage is the message about a request, as it stands after an event.
func (s *Slack) requestMessage(e Event, m slackMessage) SlackMessage {
	if m.Request != nil {
		e.Request = m.Request
	}
	title, body, _ := s.words.Write(e)
	plainWords := s.words.escaping(func(s string) string { return s })
	v := viewOf(e, plainWords.links, plainWords.escape)
	return slackMessageOf(title, requestBlocks(unMrkdwn(title), body, v, m, s.opt.Interactive))
}

// SlackRequest is the message about a request for somebody who is shown it again.
func SlackRequest(w *Words, r access.Request) SlackResponse {
	e := Event{Kind: RequestCreated, At: r.CreatedAt, Request: &r, Actor: r.Requester, Message: r.Requester + " asks for access; the request has changed since it was shown"}
	title, body, _ := w.escaping(mrkdwn).Write(e)
	v := viewOf(e, w.links, func(s string) string { return s })
	return SlackResponse{Replace: true, Text: title, Blocks: requestBlocks(unMrkdwn(title), body, v, slackMessage{Request: &r}, true)}
}

func requestBlocks(title, body string, v View, m slackMessage, interactive bool) []SlackBlock {
	blocks := []SlackBlock{{Type: "header", Text: new(plainText(title, slackHeader))}, {Type: "section", Text: new(markup(body, slackSection))}}
	var fields []SlackText
	for _, f := range v.Facts() {
		fields = append(fields, plainText(f.Label, slackField), plainText(f.Value, slackField))
	}
	for part := range slices.Chunk(fields[:min(len(fields), 60)], 10) {
		blocks = append(blocks, SlackBlock{Type: "section", Fields: part})
	}
	var lines []SlackElement
	for _, id := range slices.Sorted(maps.Keys(m.Grants)) {
		lines = append(lines, contextLine(m.Grants[id].Text))
	}
	for part := range slices.Chunk(lines[:min(len(lines), 3*slackContext)], slackContext) {
		blocks = append(blocks, SlackBlock{Type: "context", Elements: part})
	}
	var buttons []SlackElement
	if r := m.Request; r != nil && r.State == access.Pending && interactive {
		value := func(d time.Duration) string { return SlackValue{Request: r.ID, Digest: r.Digest(), For: d}.String() }
		buttons = append(buttons, SlackElement{Type: "button", Text: plainText("Approve", 75), ActionID: slackApprove, Style: "primary", Value: value(0)})
		if r.Terms.Duration > lessTime {
			buttons = append(buttons, SlackElement{Type: "button", Text: plainText("Approve for "+access.Duration(lessTime).String(), 75), ActionID: slackLess, Value: value(lessTime)})
		}
		buttons = append(buttons, SlackElement{Type: "button", Text: plainText("Deny", 75), ActionID: slackDeny, Style: "danger", Value: value(0)})
	}
	if v.Link != "" {
		buttons = append(buttons, linkButton(v.Link))
	}
	if len(buttons) > 0 {
		blocks = append(blocks, SlackBlock{Type: "actions", Elements: buttons})
	}
	return blocks
}

func contextLine(s string) SlackElement {
	no := false
	return SlackElement{Type: "plain_text", Text: runes(cmp.Or(s, "–"), slackField), Emoji: &no}
}

// lessTime is what the button for less approves.
const lessTime = 30 * time.Minute

// The ids of the buttons.
const (
	slackApprove = "approve"
	slackLess    = "approve_less"
	slackDeny    = "deny"
)

// SlackValue is what a button carries: for which request, as it was shown, and for how long at most.
type SlackValue struct {
	Request access.RequestID
	Digest  string
	For     time.Duration // 0: as it stands
}

// String writes the value as it stands in a button.
func (v SlackValue) String() string {
	return strings.Join([]string{"1", string(v.Request), v.Digest, strconv.FormatInt(int64(v.For/time.Second), 10)}, "|")
}

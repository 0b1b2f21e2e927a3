package cli

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"go.yaml.in/yaml/v4"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
)

// show writes v to stdout in the chosen form; text makes the form for people, and may be empty.
func (c *cli) show(v any, text func() string) error {
	switch c.output {
	case "json":
		b, err := marshal(v)
		if err != nil {
			return err
		}
		_, err = c.Stdout.Write(b)
		return err
	case "yaml":
		b, err := marshal(v)
		if err != nil {
			return err
		}
		b, err = toYAML(b)
		if err != nil {
			return err
		}
		_, err = c.Stdout.Write(b)
		return err
	}
	_, err := io.WriteString(c.Stdout, text())
	return err
}

// list is {"items":[…]}: never null, so that a reader can loop over it.
type list[T any] struct {
	Items []T `json:"items"`
}

func items[T any](s []T) list[T] {
	if s == nil {
		s = []T{}
	}
	return list[T]{s}
}

func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("writing the answer as JSON: %w", err)
	}
	return escapeHostile(b.Bytes()), nil
}

// escapeHostile writes the runes that a terminal would obey as \u escapes: JSON itself only escapes C0. The value stays the same.
func escapeHostile(b []byte) []byte {
	if !bytes.ContainsFunc(b, func(r rune) bool { return r > 0x7e && hostile(r) }) {
		return b
	}
	var out bytes.Buffer
	for _, r := range string(b) {
		switch {
		case r <= 0x7e || !hostile(r):
			out.WriteRune(r)
		case r > 0xffff:
			r -= 0x10000
			fmt.Fprintf(&out, `\u%04x\u%04x`, 0xd800+(r>>10), 0xdc00+(r&0x3ff))
		default:
			fmt.Fprintf(&out, `\u%04x`, r)
		}
	}
	return out.Bytes()
}

// toYAML turns JSON, which YAML includes, into block style with the same order of keys.
func toYAML(b []byte) ([]byte, error) {
	var n yaml.Node
	if err := yaml.Unmarshal(b, &n); err != nil {
		return nil, fmt.Errorf("writing the answer as YAML: %w", err)
	}
	block(&n)
	var out bytes.Buffer
	e := yaml.NewEncoder(&out)
	e.SetIndent(2)
	if err := e.Encode(&n); err != nil {
		return nil, fmt.Errorf("writing the answer as YAML: %w", err)
	}
	if err := e.Close(); err != nil {
		return nil, fmt.Errorf("writing the answer as YAML: %w", err)
	}
	return out.Bytes(), nil
}

func block(n *yaml.Node) {
	if n.Kind != yaml.ScalarNode && len(n.Content) > 0 {
		n.Style = 0
	}
	if n.Kind == yaml.ScalarNode && n.Tag == "!!str" && plain(n.Value) {
		n.Style = 0
	}
	for _, c := range n.Content {
		block(c)
	}
}

// plain tells whether a string is beyond doubt a string without quotes, in every version of YAML.
func plain(s string) bool {
	if s == "" || strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./ ", r))
	}) {
		return false
	}
	if first := s[0]; !(first >= 'a' && first <= 'z' || first >= 'A' && first <= 'Z' || first == '/') || strings.HasSuffix(s, " ") {
		return false
	}
	switch strings.ToLower(s) {
	case "y", "n", "yes", "no", "on", "off", "true", "false", "null":
		return false
	}
	return true
}

// failure is an error as programs read it.
type failure struct {
	Error failureBody `json:"error"`
}

type failureBody struct {
	Code    access.Code `json:"code"`
	Message string      `json:"message"`
	Hint    string      `json:"hint,omitempty"`
	Field   string      `json:"field,omitempty"`
	Exit    int         `json:"exit"`
}

// fail writes an error to stderr: what and why, then what next.
func (c *cli) fail(ctx context.Context, err error) {
	body := failureBody{Code: access.CodeOf(err), Message: err.Error(), Exit: api.ExitOf(err)}
	var e *access.Error
	if errors.As(err, &e) {
		body.Message, body.Hint, body.Field = e.Message, e.Hint, e.Field
	} else if errors.Is(err, context.Canceled) && ctx.Err() != nil {
		body.Message = "interrupted"
	}
	if body.Code == access.CodeUnauthenticated && c.session != "" { // it was valid once, so that a new one is what helps
		body.Hint = "sign in again with: curfew login"
	}
	body.Hint = c.shownCommand(c.alone.whole(body.Hint))
	if c.output == "json" {
		if b, err := marshal(failure{body}); err == nil {
			_, _ = c.Stderr.Write(b)
			return
		}
	}
	fmt.Fprintf(c.Stderr, "error: %s\n", strings.ReplaceAll(safeLines(body.Message), "\n", "\n       "))
	if body.Hint != "" {
		fmt.Fprintf(c.Stderr, "hint: %s\n", strings.ReplaceAll(safeLines(body.Hint), "\n", "\n      "))
	}
}

// confirm asks for consent to a plan that has been shown. Without --yes it asks on a terminal; where nobody can be asked it refuses.
func (c *cli) confirm(question string) error {
	if c.yes {
		return nil
	}
	if !c.Terminal.In || !c.Terminal.Err {
		return badInput("yes", "nobody is at a terminal to confirm this plan, and --yes was not given").
			WithHint("run the same command with --yes")
	}
	fmt.Fprintf(c.Stderr, "%s [y/N] ", safe(question))
	line, err := bufio.NewReader(c.Stdin).ReadString('\n')
	if err != nil && line == "" {
		fmt.Fprintln(c.Stderr)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return access.Errorf(access.CodeConflict, "not confirmed: nothing was changed")
}

// pages fetches the parts of a list until limit items are there, or all if it is 0.
func pages[T any](limit int, fetch func(client.Page) (api.List[T], error)) ([]T, error) {
	if limit < 0 {
		return nil, badInput("limit", "limit %d is below zero", limit)
	}
	var out []T
	var p client.Page
	for {
		p.Limit = 500
		if limit > 0 {
			p.Limit = min(limit-len(out), 500)
		}
		l, err := fetch(p)
		if err != nil {
			return nil, err
		}
		out = append(out, l.Items...)
		if l.Next == "" || l.Next == p.After || limit > 0 && len(out) >= limit {
			break
		}
		p.After = l.Next
	}
	if limit > 0 && len(out) > limit {
		out = out[:limit]
	}
	return out, nil
}

func contains[T comparable](list []T, v T) bool { return slices.Contains(list, v) }

func join[T ~string](list []T) string {
	var b strings.Builder
	for i, v := range list {
		if i > 0 {
			b.WriteString(", ")
		}
		b.WriteString(string(v))
	}
	return b.String()
}

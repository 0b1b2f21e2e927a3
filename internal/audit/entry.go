// Package audit is the tamper-evident record of what happened: entries in a Merkle tree (golang.org/x/mod/sumdb/tlog), so that
// whoever holds an older checkpoint can prove offline that nothing before it was changed, removed or put in between (P7).
package audit

import (
	"context"
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"time"
	"unicode/utf8"
)

// Outcome says at which point of an action an entry was written.
type Outcome string

// The outcomes.
const (
	Intent  Outcome = "intent"  // about to be done; nothing has happened yet
	Done    Outcome = "done"    // it happened
	Refused Outcome = "refused" // role, policy or state forbade it
	Failed  Outcome = "failed"  // it was tried and did not succeed
)

// Entry is one thing that happened. Every field is public to auditors: no token, no secret, no body of a request is ever put in.
type Entry struct {
	Index       int64             `json:"index"` // position in the log, from 0; set by the log
	At          time.Time         `json:"at"`
	Actor       string            `json:"actor"`  // a person, or "curfew" for timers and the reconciler
	Action      string            `json:"action"` // object.verb: request.create, request.approve, grant.open, grant.shut, protection.on, drift.repair …
	Outcome     Outcome           `json:"outcome"`
	Object      string            `json:"object,omitempty"` // id of the request, grant, or resource
	VM          string            `json:"vm,omitempty"`     // name of the machine, where one is concerned
	Request     string            `json:"request,omitempty"`
	Message     string            `json:"message"` // one line in words
	Detail      map[string]string `json:"detail,omitempty"`
	Correlation string            `json:"correlation,omitempty"`
	Late        bool              `json:"late,omitempty"` // recorded after the fact, because the log could not be written then
}

// Record returns the bytes that are hashed and stored: JSON with a fixed order of fields and sorted detail. An entry that was read back
// from a record has the same record again: bytes that are no UTF-8 are replaced here, because JSON would write them as an escape, and
// what it reads from that in another way.
func (e Entry) Record() ([]byte, error) {
	for _, s := range []*string{&e.Actor, &e.Action, (*string)(&e.Outcome), &e.Object, &e.VM, &e.Request, &e.Message, &e.Correlation} {
		*s = text(*s)
	}
	for k, v := range e.Detail {
		if !utf8.ValidString(k) || !utf8.ValidString(v) {
			clean := make(map[string]string, len(e.Detail))
			for _, k := range slices.Sorted(maps.Keys(e.Detail)) { // of two keys that become one, always the same stays
				clean[text(k)] = text(e.Detail[k])
			}
			e.Detail = clean
			break
		}
	}
	return json.Marshal(e)
}

func text(s string) string { return strings.ToValidUTF8(s, "\ufffd") }

type correlationKey struct{}

// WithCorrelation returns a context whose entries carry an id that also stands in the server's log and in its answer.
func WithCorrelation(ctx context.Context, id string) context.Context {
	return context.WithValue(ctx, correlationKey{}, id)
}

// Correlation returns the id that WithCorrelation put there, or "".
func Correlation(ctx context.Context) string {
	id, _ := ctx.Value(correlationKey{}).(string)
	return id
}

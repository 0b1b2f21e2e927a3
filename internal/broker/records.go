package broker

import (
	"encoding/json"
	"time"

	"github.com/curfew-jit/curfew/internal/notify"
)

// Record is a small document that needs no table of its own: a session, a token, a delegation, the place of a message elsewhere.
type Record struct {
	Kind    string          // what it is, see the constants
	ID      string          // unique in its kind; compared exactly. Of a secret, its hash
	Owner   string          // whose it is, compared without case; may be empty
	Expires time.Time       // zero: never
	Version int64           // 0 inserts, otherwise it is compared
	Doc     json.RawMessage // no secret in the clear
}

// The kinds of record.
const (
	RecordAccount    = "account"    // who a name belongs to, and what was last known of them
	RecordSession    = "session"    // by hash of its token
	RecordToken      = "token"      // API tokens, by hash
	RecordDelegation = "delegation" //
	RecordLink       = "link"       // an identity elsewhere, Slack for one, that belongs to a person
	RecordLinkCode   = "link_code"  // a code by which a person claims one, by hash
	RecordLogin      = "login"      // a sign-in under way, by hash of its state
	RecordLoginCode  = "login_code" // a session that waits for the command line to fetch it, by hash of a code
	RecordDevice     = "device"     // a sign-in by device code, by hash of its handle
	RecordFlush      = "flush"      // a place where we switched on that changes of rules end open connections; its id is the place's key
	RecordMessage    = "message"    // where a channel keeps the message about a request, to change it in place
)

// NoticeFilter selects notices, newest first.
type NoticeFilter struct {
	States  []notify.State
	Channel string
	Subject string
	Page    Page
}

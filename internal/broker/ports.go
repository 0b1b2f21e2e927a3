package broker

import (
	"context"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/scan"
)

// Store keeps the state. Every implementation passes storetest.
type Store interface {
	// Update runs fn in one write transaction, serialised with all others: all of it is stored durably, or none. Errors of fn are
	// returned as they are. A store that cannot be used returns access.CodeUnavailable.
	Update(ctx context.Context, fn func(Tx) error) error
	// View runs fn on one consistent state; writing in it fails.
	View(ctx context.Context, fn func(Tx) error) error
}

// Page bounds a list: Limit items (1 to 500; 0 means 100) after the one that After names.
type Page struct {
	After string
	Limit int
}

// RequestFilter selects requests, newest first. Empty fields match everything.
type RequestFilter struct {
	Requester string // without case
	States    []access.RequestState
	VM        string // resource id
	Page      Page
}

// GrantFilter selects grants, newest first.
type GrantFilter struct {
	Requester string
	States    []access.GrantState
	VM        string
	Request   access.RequestID
	Page      Page
}

// AuditFilter selects entries. Newest first unless Ascending.
type AuditFilter struct {
	Actor, Action, Object, VM string
	Since, Until              time.Time
	After                     int64 // Ascending: entries with a greater index; else a smaller one, if > 0
	Ascending                 bool
	Limit                     int
}

// Due are the instants at which something has to be done next; zero where there is nothing.
type Due struct {
	Opening time.Time // earliest NotBefore of a scheduled grant
	Closing time.Time // earliest EndsAt of an opening or open grant
	Expiry  time.Time // earliest ExpiresAt of a pending request
	Notice  time.Time // earliest NextAt of a waiting notice
}

// Tx is a transaction. Things that do not exist are access.CodeNotFound; a change of a thing that somebody else changed since it
// was read (its Version differs), or a move that the state table forbids, is access.CodeConflict and changes nothing.
type Tx interface {
	InsertRequest(access.Request) error
	UpdateRequest(access.Request) error // compares Version, stores Version+1
	Request(access.RequestID) (access.Request, error)
	Requests(RequestFilter) ([]access.Request, string, error) // and where to go on; "" at the end
	PendingExpired(now time.Time, limit int) ([]access.Request, error)

	InsertGrant(access.Grant) error
	UpdateGrant(access.Grant) error
	Grant(access.GrantID) (access.Grant, error)
	Grants(GrantFilter) ([]access.Grant, string, error)
	LiveGrants() ([]access.Grant, error)                         // activating, active, closing, close_failed
	LiveGrantsAt(place string) ([]access.Grant, error)           // those with a Place of that id, without case
	DueGrants(now time.Time, limit int) ([]access.Grant, error)  // scheduled, NotBefore reached
	OverGrants(now time.Time, limit int) ([]access.Grant, error) // activating or active, EndsAt reached

	PutProtection(access.Protection) error // Version 0 inserts, otherwise compares; keyed by VM.ID without case
	Protection(vmID string) (access.Protection, error)
	Protections() ([]access.Protection, error) // all but those that are off
	ProtectionsAt(place string) ([]access.Protection, error)

	Due() (Due, error)

	// Append adds an entry to the log in this transaction, and returns it with its index.
	Append(audit.Entry) (audit.Entry, error)
	Entries(AuditFilter) ([]audit.Entry, error)
	LogSize() (int64, error)
	Checkpoint() (audit.Checkpoint, error)

	// Remembered returns what a caller's idempotency key made, if it was used; a key used for another body is a conflict.
	Remembered(caller, key, bodyHash string) (id string, ok bool, err error)
	Remember(caller, key, bodyHash, id string, now time.Time) error
	// Forget drops the keys that were remembered before an instant.
	Forget(before time.Time) error

	InsertScan(ScanRecord) error                  // the id must be new
	Scan(id string) (ScanRecord, error)           //
	Scans(Page) ([]scan.Head, string, error)      // newest first, and where to go on; "" at the end
	ForgetScans(keep int, before time.Time) error // drops scans that were judged for an instant before, but for the newest so many

	PutRecord(Record) error // Version 0 inserts, and is a conflict if it is there; otherwise compares
	Record(kind, id string) (Record, error)
	Records(kind, owner string) ([]Record, error) // of that owner, or of all where it is ""; in the order in which they were made
	DropRecord(kind, id string) error             // nothing to drop is no error
	ForgetRecords(now time.Time) error            // drops those that have expired

	InsertNotice(notify.Notice) error
	UpdateNotice(notify.Notice) error // compares Version, stores Version+1
	Notice(id string) (notify.Notice, error)
	Notices(NoticeFilter) ([]notify.Notice, string, error)
	// DueNotices returns waiting notices of a channel whose time has come, oldest first: of each subject only the first that waits.
	DueNotices(channel string, now time.Time, limit int) ([]notify.Notice, error)
	NoticeCounts() ([]notify.Count, error) // of every channel that has any, by its name
	ForgetNotices(before time.Time) error  // drops those sent before

	// Meta are single values of the installation: "" if unset.
	Meta(key string) (string, error)
	SetMeta(key, value string) error
}

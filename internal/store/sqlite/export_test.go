package sqlite

import "database/sql"

// WriteDB lets tests set what a connection has set, such as max_page_count.
func WriteDB(s *Store) *sql.DB { return s.write }

// Fold is fold.
var Fold = fold

// HotQueries are those that must not read more than they return.
var HotQueries = map[string]string{
	"LiveGrants": qLiveGrants, "LiveGrantsAt": qLiveGrantsAt, "DueGrants": qDueGrants, "OverGrants": qOverGrants, "PendingExpired": qPendingExpired,
	"Due.Opening": qEarliestOpening, "Due.Closing": qEarliestClosingOf, "Due.Expiry": qEarliestExpiry, "Grant": qGrant, "Request": qRequest,
	"UpdateGrant": qUpdateGrant, "UpdateRequest": qUpdateRequest, "GrantPlaces": qGrantPlaces, "RequestVMs": qRequestVMs,
	"Protection": qProtection, "ProtectionsAt": qProtectionsAt, "Remembered": qRemembered, "Hashes": qHashesBetween, "Entries": qEntriesFrom,
}

package sqlite

import (
	"fmt"
	"strings"
)

// All SQL of the store, but for the schema. It runs as it stands on SQLite and PostgreSQL: $n placeholders, numbered by first
// appearance (SQLite binds them so), named columns, BIGINT, TEXT and BLOB values only.
const (
	qInstallation       = `SELECT origin, epoch, commits, log_size FROM installation WHERE id = 1`
	qInsertInstallation = `INSERT INTO installation (id, origin, epoch, commits, log_size) VALUES (1, $1, $2, 0, 0)`
	qCountCommit        = `UPDATE installation SET commits = commits + 1 WHERE id = 1`
	qSetEpoch           = `UPDATE installation SET epoch = $1 WHERE id = 1`
	qLogSize            = `SELECT log_size FROM installation WHERE id = 1`
	qLastEntry          = `SELECT COALESCE(MAX(idx), -1) FROM log`
	qGrowLog            = `UPDATE installation SET log_size = $1 WHERE id = 1 AND log_size = $2`

	qInsertRequest = `INSERT INTO requests (id, requester_key, state, expires_at, version, doc)
		VALUES ($1, $2, $3, $4, $5, $6) RETURNING seq`
	qUpdateRequest = `UPDATE requests SET requester_key = $1, state = $2, expires_at = $3, version = $4, doc = $5
		WHERE id = $6 AND version = $7 RETURNING seq`
	qRequestColumns    = `SELECT r.id, r.state, r.version, r.expires_at, r.doc FROM requests r`
	qRequest           = qRequestColumns + ` WHERE r.id = $1`
	qPendingExpired    = qRequestColumns + ` WHERE r.state = 'pending' AND r.expires_at <= $1 ORDER BY r.expires_at, r.seq LIMIT $2`
	qRequestSeq        = `SELECT seq FROM requests WHERE id = $1`
	qRequestState      = `SELECT state, version FROM requests WHERE id = $1`
	qInsertRequestVM   = `INSERT INTO request_vms (vm_key, request_seq) VALUES ($1, $2) ON CONFLICT (vm_key, request_seq) DO NOTHING`
	qRequestVMs        = `SELECT vm_key FROM request_vms WHERE request_seq = $1 ORDER BY vm_key`
	qDeleteRequestVMs  = `DELETE FROM request_vms WHERE request_seq = $1`
	qEarliestExpiry    = `SELECT MIN(expires_at) FROM requests WHERE state = 'pending'`
	qEarliestOpening   = `SELECT MIN(not_before) FROM grants WHERE state = 'scheduled'`
	qEarliestClosingOf = `SELECT MIN(ends_at) FROM grants WHERE state = $1`

	qInsertGrant = `INSERT INTO grants (id, request_id, requester_key, vm_key, state, not_before, ends_at, version, doc)
		VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) RETURNING seq`
	qUpdateGrant = `UPDATE grants SET request_id = $1, requester_key = $2, vm_key = $3, state = $4, not_before = $5, ends_at = $6,
		version = $7, doc = $8 WHERE id = $9 AND version = $10 RETURNING seq`
	qGrantColumns = `SELECT g.id, g.state, g.version, g.not_before, g.ends_at, g.doc FROM grants g`
	qGrant        = qGrantColumns + ` WHERE g.id = $1`
	qGrantSeq     = `SELECT seq FROM grants WHERE id = $1`
	qGrantState   = `SELECT state, version FROM grants WHERE id = $1`
	qLiveGrants   = qGrantColumns + ` WHERE g.state IN ('activating', 'active', 'closing', 'close_failed') ORDER BY g.seq`
	qLiveGrantsAt = `SELECT g.id, g.state, g.version, g.not_before, g.ends_at, g.doc FROM grant_places p
		JOIN grants g ON g.seq = p.grant_seq
		WHERE p.place_key = $1 AND g.state IN ('activating', 'active', 'closing', 'close_failed') ORDER BY g.seq`
	qDueGrants         = qGrantColumns + ` WHERE g.state = 'scheduled' AND g.not_before <= $1 ORDER BY g.not_before, g.seq LIMIT $2`
	qOverGrants        = qGrantColumns + ` WHERE g.state IN ('activating', 'active') AND g.ends_at <= $1 ORDER BY g.ends_at, g.seq LIMIT $2`
	qInsertGrantPlace  = `INSERT INTO grant_places (place_key, grant_seq) VALUES ($1, $2) ON CONFLICT (place_key, grant_seq) DO NOTHING`
	qGrantPlaces       = `SELECT place_key FROM grant_places WHERE grant_seq = $1 ORDER BY place_key`
	qDeleteGrantPlaces = `DELETE FROM grant_places WHERE grant_seq = $1`

	qInsertProtection  = `INSERT INTO protections (vm_key, state, version, doc) VALUES ($1, $2, $3, $4)`
	qUpdateProtection  = `UPDATE protections SET state = $1, version = $2, doc = $3 WHERE vm_key = $4 AND version = $5 RETURNING version`
	qProtectionColumns = `SELECT p.vm_key, p.state, p.version, p.doc FROM protections p`
	qProtection        = qProtectionColumns + ` WHERE p.vm_key = $1`
	qProtectionState   = `SELECT state, version FROM protections WHERE vm_key = $1`
	qProtections       = qProtectionColumns + ` WHERE p.state <> 'off' ORDER BY p.vm_key`
	qProtectionsAt     = `SELECT p.vm_key, p.state, p.version, p.doc FROM protection_places l
		JOIN protections p ON p.vm_key = l.vm_key WHERE l.place_key = $1 AND p.state <> 'off' ORDER BY p.vm_key`
	qInsertProtectionPlace  = `INSERT INTO protection_places (place_key, vm_key) VALUES ($1, $2) ON CONFLICT (place_key, vm_key) DO NOTHING`
	qProtectionPlaces       = `SELECT place_key FROM protection_places WHERE vm_key = $1 ORDER BY place_key`
	qDeleteProtectionPlaces = `DELETE FROM protection_places WHERE vm_key = $1`

	qInsertEntry   = `INSERT INTO log (idx, at, actor_key, action, object_key, vm_key, record) VALUES ($1, $2, $3, $4, $5, $6, $7)`
	qEntryColumns  = `SELECT l.idx, l.at, l.actor_key, l.action, l.object_key, l.vm_key, l.record FROM log l`
	qEntriesFrom   = qEntryColumns + ` WHERE l.idx >= $1 ORDER BY l.idx LIMIT $2`
	qInsertHash    = `INSERT INTO log_hashes (idx, hash) VALUES ($1, $2)`
	qHashColumns   = `SELECT h.idx, h.hash FROM log_hashes h`
	qHashesBetween = qHashColumns + ` WHERE h.idx >= $1 AND h.idx < $2 ORDER BY h.idx`

	qInsertScan  = `INSERT INTO scans (id, at, head, report) VALUES ($1, $2, $3, $4)`
	qScan        = `SELECT s.id, s.at, s.head, s.report FROM scans s WHERE s.id = $1`
	qScanHeads   = `SELECT s.id, s.at, s.head FROM scans s`
	qScanSeq     = `SELECT seq FROM scans WHERE id = $1`
	qForgetScans = `DELETE FROM scans WHERE at < $1 AND seq NOT IN (SELECT seq FROM scans ORDER BY seq DESC LIMIT $2)`

	qInsertRecord  = `INSERT INTO records (kind, id, owner_key, expires_at, version, doc) VALUES ($1, $2, $3, $4, $5, $6)`
	qUpdateRecord  = `UPDATE records SET owner_key = $1, expires_at = $2, version = $3, doc = $4 WHERE kind = $5 AND id = $6 AND version = $7 RETURNING version`
	qRecordColumns = `SELECT r.kind, r.id, r.owner_key, r.expires_at, r.version, r.doc FROM records r`
	qRecord        = qRecordColumns + ` WHERE r.kind = $1 AND r.id = $2`
	qRecords       = qRecordColumns + ` WHERE r.kind = $1 ORDER BY r.seq`
	qRecordsOf     = qRecordColumns + ` WHERE r.kind = $1 AND r.owner_key = $2 ORDER BY r.seq`
	qDropRecord    = `DELETE FROM records WHERE kind = $1 AND id = $2`
	qForgetRecords = `DELETE FROM records WHERE expires_at <= $1`

	qInsertNotice  = `INSERT INTO notices (id, channel, subject, state, next_at, sent_at, version, doc) VALUES ($1, $2, $3, $4, $5, $6, $7, $8)`
	qUpdateNotice  = `UPDATE notices SET state = $1, next_at = $2, sent_at = $3, version = $4, doc = $5 WHERE id = $6 AND version = $7 RETURNING seq`
	qNoticeColumns = `SELECT n.id, n.state, n.version, n.next_at, n.doc FROM notices n`
	qNotice        = qNoticeColumns + ` WHERE n.id = $1`
	qNoticeSeq     = `SELECT seq FROM notices WHERE id = $1`
	qNoticeState   = `SELECT state, version FROM notices WHERE id = $1`
	qDueNotices    = qNoticeColumns + ` WHERE n.channel = $1 AND n.state = 'waiting' AND n.next_at <= $2 AND NOT EXISTS (SELECT 1 FROM notices e
		WHERE e.channel = n.channel AND e.subject = n.subject AND e.state = 'waiting' AND e.seq < n.seq) ORDER BY n.next_at, n.seq LIMIT $3`
	qNoticeCounts   = `SELECT channel, state, COUNT(*), MIN(seq) FROM notices GROUP BY state, channel ORDER BY channel, state`
	qNoticeAt       = qNoticeColumns + ` WHERE n.seq = $1`
	qEarliestNotice = `SELECT MIN(next_at) FROM notices WHERE state = 'waiting'`
	qForgetNotices  = `DELETE FROM notices WHERE state = 'sent' AND sent_at < $1`

	qRemembered = `SELECT body_hash, object_id FROM idempotency WHERE caller = $1 AND key = $2`
	qRemember   = `INSERT INTO idempotency (caller, key, body_hash, object_id, at) VALUES ($1, $2, $3, $4, $5)`
	qForget     = `DELETE FROM idempotency WHERE at < $1`
	qMeta       = `SELECT value FROM meta WHERE key = $1`
	qSetMeta    = `INSERT INTO meta (key, value) VALUES ($1, $2) ON CONFLICT (key) DO UPDATE SET value = excluded.value`
)

// hot are the queries that are kept prepared on every connection: parsing them is half of what a transaction costs otherwise.
var hot = append([]string{
	qInstallation, qCountCommit, qLogSize, qGrowLog,
	qInsertRequest, qUpdateRequest, qRequest, qPendingExpired, qInsertRequestVM, qRequestVMs, qEarliestExpiry, qEarliestOpening, qEarliestClosingOf,
	qInsertGrant, qUpdateGrant, qGrant, qLiveGrants, qLiveGrantsAt, qDueGrants, qOverGrants, qInsertGrantPlace, qGrantPlaces, qDeleteGrantPlaces,
	qProtection, qProtections, qProtectionsAt, qInsertEntry, qInsertHash, qRemembered, qRemember, qMeta, qSetMeta,
	qRecord, qRecordsOf, qInsertNotice, qUpdateNotice, qDueNotices, qNoticeCounts, qNoticeAt, qEarliestNotice,
}, qHashesIn[:]...)

// qHashesIn reads 1, 2, 4, … hashes; shorter lists repeat their last index.
var qHashesIn = func() (q [7]string) {
	for i := range q {
		marks := make([]string, 1<<i)
		for j := range marks {
			marks[j] = fmt.Sprintf("$%d", j+1)
		}
		q[i] = qHashColumns + " WHERE h.idx IN (" + strings.Join(marks, ", ") + ")"
	}
	return q
}()

// where gathers conditions and their arguments.
type where struct {
	conds []string
	args  []any
}

// and adds a condition; each %s in it is the place of the next argument.
func (w *where) and(cond string, args ...any) {
	marks := make([]any, len(args))
	for i, a := range args {
		w.args = append(w.args, a)
		marks[i] = fmt.Sprintf("$%d", len(w.args))
	}
	w.conds = append(w.conds, fmt.Sprintf(cond, marks...))
}

// in adds "column IN (…)".
func (w *where) in(column string, args ...any) {
	w.and(column+" IN (%s"+strings.Repeat(", %s", len(args)-1)+")", args...)
}

// query returns the whole query and its arguments.
func (w *where) query(columns, order string, limit int) (string, []any) {
	q := columns
	if len(w.conds) > 0 {
		q += " WHERE " + strings.Join(w.conds, " AND ")
	}
	args := append(w.args, int64(limit))
	return fmt.Sprintf("%s ORDER BY %s LIMIT $%d", q, order, len(args)), args
}

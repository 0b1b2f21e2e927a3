package sqlite

import (
	"bytes"
	"compress/gzip"
	"database/sql"
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/scan"
)

// maxReport bounds what is unpacked of one report, in bytes.
const maxReport = 1 << 30

// InsertScan implements broker.Tx.
func (t *tx) InsertScan(r broker.ScanRecord) error {
	at, err := instant(r.At)
	if err != nil {
		return err
	}
	head, err := encode("scan", r.ID, r.Head)
	if err != nil {
		return err
	}
	report, err := encode("scan", r.ID, r.Report)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	z := gzip.NewWriter(&b)
	if _, err = io.WriteString(z, report); err == nil {
		err = z.Close()
	}
	if err != nil {
		return err
	}
	if _, err := t.exec(qInsertScan, r.ID, at, head, b.Bytes()); isUnique(err) {
		return exists("scan", r.ID)
	} else if err != nil {
		return t.unexpected(err)
	}
	return nil
}

func scanHead(id string, at int64, doc string) (scan.Head, error) {
	var h scan.Head
	if err := json.Unmarshal([]byte(doc), &h); err != nil {
		return h, damaged("scan", id, "its document is not readable", err)
	}
	if h.ID != id || h.At.UnixNano() != at {
		return h, damaged("scan", id, "its columns and its document differ", nil)
	}
	return h, nil
}

// Scan implements broker.Tx.
func (t *tx) Scan(id string) (broker.ScanRecord, error) {
	var key, doc string
	var at int64
	var packed []byte
	err := t.row(qScan, id).Scan(&key, &at, &doc, &packed)
	if errors.Is(err, sql.ErrNoRows) {
		return broker.ScanRecord{}, notFound("scan", id)
	}
	if err != nil {
		return broker.ScanRecord{}, t.driver(err)
	}
	r := broker.ScanRecord{}
	if r.Head, err = scanHead(key, at, doc); err != nil {
		return r, err
	}
	z, err := gzip.NewReader(bytes.NewReader(packed))
	if err == nil {
		err = json.NewDecoder(io.LimitReader(z, maxReport)).Decode(&r.Report)
	}
	if err != nil {
		return r, damaged("scan", id, "its report is not readable", err)
	}
	return r, nil
}

// Scans implements broker.Tx.
func (t *tx) Scans(p broker.Page) ([]scan.Head, string, error) {
	n, err := limit(p.Limit, 500)
	if err != nil {
		return nil, "", err
	}
	var w where
	if err := t.after(&w, "s.seq", qScanSeq, p.After); err != nil {
		return nil, "", err
	}
	q, args := w.query(qScanHeads, "s.seq DESC", n+1)
	list, err := collect(t, q, args, func(row scanner) (scan.Head, error) {
		var id, doc string
		var at int64
		if err := row.Scan(&id, &at, &doc); err != nil {
			return scan.Head{}, err
		}
		return scanHead(id, at, doc)
	})
	if err != nil || len(list) <= n {
		return list, "", err
	}
	return list[:n], list[n-1].ID, nil
}

// ForgetScans implements broker.Tx.
func (t *tx) ForgetScans(keep int, before time.Time) error {
	at, err := instant(before)
	if err != nil {
		return err
	}
	_, err = t.exec(qForgetScans, at, int64(keep))
	return t.unexpected(err)
}

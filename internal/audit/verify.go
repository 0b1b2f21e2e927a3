package audit

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"golang.org/x/mod/sumdb/tlog"
)

// Stored is an entry as a store or an export holds it.
type Stored struct {
	Index  int64
	Record []byte
	// Hashes are those that the store keeps for this entry: its own and those of the subtrees that it completes, in the order of
	// tlog.StoredHashes. Nil if there are none, as in an export.
	Hashes []tlog.Hash
	// Damaged is what the store itself found wrong with the entry; the record may be unusable then.
	Damaged error
}

// Reader yields entries in ascending order of index, up to the first error of fn, which it returns as it is.
type Reader interface {
	Entries(ctx context.Context, fn func(Stored) error) error
}

// TamperError says that a log is not what it was, and where that shows first.
type TamperError struct {
	Index int64 // the first entry that is known to be wrong; -1 if it cannot be said which
	Why   string
}

// Error implements error.
func (e *TamperError) Error() string {
	if e.Index < 0 {
		return "the audit log was changed: " + e.Why
	}
	return fmt.Sprintf("the audit log was changed at entry %d: %s", e.Index, e.Why)
}

// Report is what Verify saw.
type Report struct {
	Origin  string    `json:"origin"`
	Size    int64     `json:"size"` // entries read and found right
	Root    tlog.Hash `json:"root"` // computed from the records alone
	First   time.Time `json:"first,omitzero"`
	Last    time.Time `json:"last,omitzero"`
	Late    int64     `json:"late"`    // entries recorded after the fact, because the log could not be written
	Against []int64   `json:"against"` // sizes of the older checkpoints that the log agrees with
}

// Verify computes the tree again from the records, without trusting a stored hash, and compares it with now, the checkpoint that
// the log claims to be at, and with older checkpoints from elsewhere. It reads each entry once and keeps no more than a few
// hashes.
//
// A log that was changed is a *TamperError naming the first entry at which that shows; a checkpoint of another log is a *ForeignError;
// any other error means that the log could not be read. Against somebody who rewrote records, hashes and checkpoint alike, only an older checkpoint that he could not
// reach proves anything: then the error names the entries between two checkpoints.
func Verify(ctx context.Context, r Reader, now Checkpoint, older ...Checkpoint) (Report, error) {
	return verify(ctx, r, now.Origin, &now, older)
}

// VerifyCopy is Verify for a copy of a log, such as an export, that makes no claim of its own: it is compared with checkpoints alone.
// What stands behind the newest of them is in order, and not proven: Report.Against says up to where it is. Without a checkpoint there
// is nothing to compare with, which is an error.
func VerifyCopy(ctx context.Context, r Reader, known ...Checkpoint) (Report, error) {
	if len(known) == 0 {
		return Report{}, errors.New("a copy of the audit log proves nothing without a checkpoint")
	}
	return verify(ctx, r, known[0].Origin, nil, known)
}

// ForeignError says that a checkpoint is of another log.
type ForeignError struct {
	Log   string // the name of this one
	Other Checkpoint
}

// Error implements error.
func (e *ForeignError) Error() string {
	return fmt.Sprintf("this is the audit log %s, and the checkpoint of size %d is of another one, %s: another installation made it, or this database was put in the place of the other",
		e.Log, e.Other.Size, e.Other.Origin)
}

func verify(ctx context.Context, r Reader, origin string, now *Checkpoint, older []Checkpoint) (Report, error) {
	rep := Report{Origin: origin, Against: []int64{}}
	older = slices.Clone(older)
	slices.SortFunc(older, func(a, b Checkpoint) int { return int(min(max(a.Size-b.Size, -1), 1)) })
	for _, c := range older {
		if c.Origin != origin {
			return rep, &ForeignError{Log: origin, Other: c}
		}
	}
	var tree frontier
	next, good := 0, int64(0) // the next older checkpoint, and the size of the last one that agreed
	check := func() error {
		for ; next < len(older) && older[next].Size == tree.size; next++ {
			if tree.root() != older[next].Root {
				return &TamperError{Index: -1, Why: fmt.Sprintf("an entry from %d to %d is not what it was, or was removed or put in, when the checkpoint of size %d was made",
					good, tree.size-1, tree.size)}
			}
			good = tree.size
			rep.Against = append(rep.Against, good)
		}
		return nil
	}
	if err := check(); err != nil { // checkpoints of the empty log
		return rep, err
	}
	err := r.Entries(ctx, func(s Stored) error {
		e, err := checkEntry(s, tree.size)
		if err != nil {
			return err
		}
		if now != nil && s.Index >= now.Size {
			return &TamperError{Index: s.Index, Why: fmt.Sprintf("it was put in: the log claims to have %d entries", now.Size)}
		}
		hashes := tree.add(s.Record)
		if s.Hashes != nil && !slices.Equal(s.Hashes, hashes) {
			return &TamperError{Index: s.Index, Why: "its record does not have the hash that was stored with it"}
		}
		if rep.First.IsZero() {
			rep.First = e.At
		}
		if rep.Last = e.At; e.Late {
			rep.Late++
		}
		return check()
	})
	rep.Size, rep.Root = tree.size, tree.root()
	if err != nil {
		return rep, err
	}
	if next < len(older) {
		return rep, &TamperError{Index: tree.size, Why: fmt.Sprintf("the log ends before it, and had %d entries when a checkpoint was made: the rest was removed", older[next].Size)}
	}
	switch {
	case now == nil:
	case tree.size < now.Size:
		return rep, &TamperError{Index: tree.size, Why: fmt.Sprintf("the log ends before it, and claims to have %d entries", now.Size)}
	case rep.Root != now.Root:
		return rep, &TamperError{Index: -1, Why: "the root that it claims is not that of its records"}
	}
	return rep, nil
}

func checkEntry(s Stored, want int64) (Entry, error) {
	var e Entry
	switch {
	case s.Index > want:
		return e, &TamperError{Index: want, Why: fmt.Sprintf("it is missing; the next one is %d", s.Index)}
	case s.Index < want:
		return e, &TamperError{Index: s.Index, Why: "it stands in the log a second time, or out of order"}
	case s.Damaged != nil:
		return e, &TamperError{Index: s.Index, Why: s.Damaged.Error()}
	}
	if err := json.Unmarshal(s.Record, &e); err != nil {
		return e, &TamperError{Index: s.Index, Why: "its record is not readable"}
	}
	if e.Index != want {
		return e, &TamperError{Index: want, Why: fmt.Sprintf("its record says that it is entry %d: one was removed, put in, or moved", e.Index)}
	}
	return e, nil
}

// frontier is the right edge of a growing tree: the roots of the complete subtrees that it is made of, largest first (RFC 6962,
// 2.1). It gives the same hashes as tlog, and needs no storage.
type frontier struct {
	size  int64
	roots []tlog.Hash
}

// add appends a record and returns the hashes that it adds to the tree, in the order of tlog.StoredHashes.
func (f *frontier) add(record []byte) []tlog.Hash {
	h := tlog.RecordHash(record)
	added := []tlog.Hash{h}
	for n := f.size; n&1 == 1; n >>= 1 {
		last := len(f.roots) - 1
		h = tlog.NodeHash(f.roots[last], h)
		f.roots = f.roots[:last]
		added = append(added, h)
	}
	f.roots = append(f.roots, h)
	f.size++
	return added
}

func (f *frontier) root() tlog.Hash {
	if f.size == 0 {
		h, _ := tlog.TreeHash(0, nil) // the hash of nothing: reads no hash, so it does not fail
		return h
	}
	h := f.roots[len(f.roots)-1]
	for i := len(f.roots) - 2; i >= 0; i-- {
		h = tlog.NodeHash(f.roots[i], h)
	}
	return h
}

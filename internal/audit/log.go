package audit

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
)

// HashStore holds the hashes of the tree, addressed as tlog.StoredHashIndex numbers them. A store implements it on its open
// transaction, so that hashes and record are stored together or not at all.
type HashStore interface {
	tlog.HashReader // returns one hash for each index asked for, in that order, or an error
	// PutHashes stores hashes at first, first+1, …; an index that is taken already is an error.
	PutHashes(first int64, hashes []tlog.Hash) error
}

// Append stores the hashes that record adds as entry number size (counted from 0) of the log. It is not idempotent: the caller
// stores the record itself, and the new size, in the same transaction.
func Append(hs HashStore, size int64, record []byte) error {
	hashes, err := tlog.StoredHashes(size, record, hs)
	if err != nil {
		return fmt.Errorf("hashing entry %d of the audit log: %w", size, err)
	}
	if err := hs.PutHashes(tlog.StoredHashIndex(0, size), hashes); err != nil {
		return fmt.Errorf("storing the hashes of entry %d of the audit log: %w", size, err)
	}
	return nil
}

// Checkpoint names a whole log up to a size: who holds an older one can prove that nothing before it was changed since.
type Checkpoint struct {
	Origin string    `json:"origin"` // the name of the log: one line, never reused for another log
	Size   int64     `json:"size"`
	Root   tlog.Hash `json:"root"`
}

// MakeCheckpoint computes the checkpoint of the first size entries from stored hashes.
func MakeCheckpoint(origin string, size int64, hr tlog.HashReader) (Checkpoint, error) {
	root, err := tlog.TreeHash(size, hr)
	if err != nil {
		return Checkpoint{}, fmt.Errorf("computing the root of the audit log at size %d: %w", size, err)
	}
	return Checkpoint{Origin: origin, Size: size, Root: root}, nil
}

// String returns the text form of C2SP tlog-checkpoint: "origin\nsize\nbase64(root)\n". It is what a signature would be over.
func (c Checkpoint) String() string {
	return c.Origin + "\n" + strconv.FormatInt(c.Size, 10) + "\n" + c.Root.String() + "\n"
}

// MarshalText implements encoding.TextMarshaler.
func (c Checkpoint) MarshalText() ([]byte, error) { return []byte(c.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (c *Checkpoint) UnmarshalText(b []byte) error {
	v, err := ParseCheckpoint(b)
	if err == nil {
		*c = v
	}
	return err
}

// ParseCheckpoint reads the text form. Further lines, which C2SP allows (extensions, then an empty line and signatures), are not
// looked at: OpenCheckpoint checks signatures.
func ParseCheckpoint(text []byte) (Checkpoint, error) {
	lines := strings.SplitN(string(text), "\n", 4)
	if len(lines) < 4 {
		return Checkpoint{}, errors.New("not a checkpoint: it needs three whole lines, origin, size and root")
	}
	if lines[0] == "" {
		return Checkpoint{}, errors.New("not a checkpoint: its origin is empty")
	}
	size, err := strconv.ParseInt(lines[1], 10, 64)
	if err != nil || size < 0 || strconv.FormatInt(size, 10) != lines[1] {
		return Checkpoint{}, fmt.Errorf("not a checkpoint: size %q is not a number", lines[1])
	}
	root, err := base64.StdEncoding.Strict().DecodeString(lines[2])
	// The decoder passes over line ends of either kind; a checkpoint has one spelling.
	if err != nil || len(root) != tlog.HashSize || strings.ContainsRune(lines[2], '\r') {
		return Checkpoint{}, fmt.Errorf("not a checkpoint: root %q is not the base64 of %d bytes", lines[2], tlog.HashSize)
	}
	return Checkpoint{Origin: lines[0], Size: size, Root: tlog.Hash(root)}, nil
}

// Sign returns the checkpoint as a signed note. Without signers it is the plain text.
func (c Checkpoint) Sign(signers ...note.Signer) ([]byte, error) {
	if len(signers) == 0 {
		return []byte(c.String()), nil
	}
	return note.Sign(&note.Note{Text: c.String()}, signers...)
}

// OpenCheckpoint reads a checkpoint and checks its signature; what is wrong with that is ErrUnsigned, a *KeyError or a *SignatureError.
// Nil verifiers take it as it is, signed or not: whoever passes none trusts the place that it came from.
func OpenCheckpoint(msg []byte, known note.Verifiers) (Checkpoint, error) {
	if known == nil {
		return ParseCheckpoint(msg)
	}
	n, err := note.Open(msg, known)
	if err != nil {
		return Checkpoint{}, openError(msg, err)
	}
	return ParseCheckpoint([]byte(n.Text))
}

// Inclusion proves that entry index is in the log of that size.
func Inclusion(index, size int64, hr tlog.HashReader) (tlog.RecordProof, error) {
	if index < 0 || index >= size {
		return nil, fmt.Errorf("entry %d is not in a log of %d entries", index, size)
	}
	return tlog.ProveRecord(size, index, hr)
}

// CheckInclusion checks a proof of Inclusion for the bytes of a record.
func CheckInclusion(p tlog.RecordProof, c Checkpoint, index int64, record []byte) error {
	return tlog.CheckRecord(p, c.Size, c.Root, index, tlog.RecordHash(record))
}

// Consistency proves that the log at size begins with the whole log at older. The empty log is the beginning of every log: its
// proof is empty.
func Consistency(older, size int64, hr tlog.HashReader) (tlog.TreeProof, error) {
	if older < 0 || older > size {
		return nil, fmt.Errorf("a log of %d entries has no beginning of %d", size, older)
	}
	if older == 0 {
		return tlog.TreeProof{}, nil
	}
	return tlog.ProveTree(size, older, hr)
}

// CheckConsistency checks a proof of Consistency.
func CheckConsistency(p tlog.TreeProof, c, older Checkpoint) error {
	if c.Origin != older.Origin {
		return fmt.Errorf("the checkpoints are of different logs: %s and %s", c.Origin, older.Origin)
	}
	if older.Size == 0 {
		if empty, err := tlog.TreeHash(0, nil); err != nil || empty != older.Root || len(p) != 0 {
			return errors.New("the older checkpoint is of size 0, and not of the empty log")
		}
		return nil
	}
	return tlog.CheckTree(p, c.Size, c.Root, older.Size, older.Root)
}

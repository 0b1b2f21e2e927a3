package audit

import (
	"bytes"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Signed checkpoints are kept one after the other in a file that is only ever appended to, each followed by an empty line. A file with
// a single checkpoint, signed or not, reads as one too. A part that a crash cut off is followed by a line with cutMark.
const cutMark = "~"

// JoinCheckpoint returns what is appended to a file that ends in tail (its last line at least), for one more signed checkpoint.
func JoinCheckpoint(tail, msg []byte) []byte {
	var b []byte
	last, whole := bytes.CutSuffix(tail, []byte("\n\n"))
	if last = last[bytes.LastIndexByte(last, '\n')+1:]; len(tail) > 0 && (!whole || !bytes.HasPrefix(last, []byte("— "))) {
		b = append(b, "\n"+cutMark+"\n\n"...)
	}
	return append(append(b, msg...), '\n')
}

// SplitCheckpoints returns the checkpoints of a file in their order, each as it was written, and how many parts are none: cut off by a
// crash, or damaged. One that was cut off just before its signature may be among the checkpoints, as one that is not signed.
func SplitCheckpoints(content []byte) (msgs [][]byte, damaged int) {
	var text, sigs []byte
	inSigs, skip, gap := false, false, false // gap: more than one blank line before the signatures, which nobody writes
	end := func(whole bool) {
		if len(text) > 0 || inSigs {
			_, err := ParseCheckpoint(text)
			if err != nil || !whole || gap && len(sigs) > 0 || bytes.HasSuffix(text, []byte("\n"+cutMark+"\n")) {
				damaged++
			} else if len(sigs) > 0 {
				msgs = append(msgs, bytes.Join([][]byte{text, []byte("\n"), sigs}, nil))
			} else {
				msgs = append(msgs, bytes.Clone(text))
			}
		}
		text, sigs, inSigs, gap = nil, nil, false, false
	}
	for line := range bytes.Lines(content) {
		whole := bytes.HasSuffix(line, []byte("\n"))
		blank := bytes.Equal(line, []byte("\n"))
		switch {
		case skip:
			skip = !blank
		case inSigs && blank:
			if len(sigs) == 0 {
				gap = true
			} else {
				end(true)
			}
		case inSigs && bytes.HasPrefix(line, []byte("— ")):
			if sigs = append(sigs, line...); !whole {
				end(false)
			}
		case inSigs && len(sigs) == 0 && !bytes.Equal(line, []byte(cutMark+"\n")):
			end(true) // a checkpoint that is not signed, and the next one
			text = append(text, line...)
		case inSigs:
			end(false)
			skip = true
		case blank:
			inSigs = len(text) > 0
		default:
			if text = append(text, line...); !whole {
				end(false)
			}
		}
	}
	end(true)
	return msgs, damaged
}

// ErrUnsigned says that a checkpoint carries no signature.
var ErrUnsigned = errors.New("the checkpoint is not signed")

// KeyError says that a checkpoint is signed, and by none of the keys that were given.
type KeyError struct{ By []string }

// Error implements error.
func (e *KeyError) Error() string {
	return fmt.Sprintf("the checkpoint is signed by %s, and not by the key that was given", strings.Join(e.By, ", "))
}

// SignatureError says that a checkpoint is not what was signed.
type SignatureError struct{ By string }

// Error implements error.
func (e *SignatureError) Error() string {
	return fmt.Sprintf("the signature of the checkpoint by %s does not fit: it was changed after it was signed", e.By)
}

// openError tells apart what note.Open found wrong.
func openError(msg []byte, err error) error {
	var unknown *note.UnverifiedNoteError
	var bad *note.InvalidSignatureError
	switch {
	case errors.As(err, &unknown):
		e := &KeyError{}
		for _, s := range unknown.Note.UnverifiedSigs {
			e.By = append(e.By, fmt.Sprintf("%s+%08x", s.Name, s.Hash))
		}
		return e
	case errors.As(err, &bad):
		return &SignatureError{By: fmt.Sprintf("%s+%08x", bad.Name, bad.Hash)}
	case !bytes.Contains(msg, []byte("\n\n")):
		return ErrUnsigned
	}
	return fmt.Errorf("checking the signature of the checkpoint: %w", err)
}

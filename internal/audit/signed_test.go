package audit_test

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/curfew-jit/curfew/internal/audit"
)

func pair(t testing.TB, name string) (note.Signer, note.Verifier) {
	t.Helper()
	skey, vkey, err := note.GenerateKey(nil, name)
	must(t, err)
	s, err := note.NewSigner(skey)
	must(t, err)
	v, err := note.NewVerifier(vkey)
	must(t, err)
	return s, v
}

// Whatever a crash cuts off of a file of checkpoints, all whole ones before and after it are read, and none that was not written.
func TestFileOfCheckpoints(t *testing.T) {
	_, h := makeLog(t, 9)
	s, v := pair(t, "curfew/audit")
	sign := func(size int64) []byte {
		msg, err := at(t, h, size).Sign(s)
		must(t, err)
		return msg
	}
	var file []byte
	for size := int64(1); size <= 3; size++ {
		file = append(file, audit.JoinCheckpoint(file, sign(size))...)
	}
	sizes := func(content []byte) (out []int64, damaged int) {
		msgs, damaged := audit.SplitCheckpoints(content)
		for _, m := range msgs {
			c, err := audit.OpenCheckpoint(m, note.VerifierList(v))
			if errors.Is(err, audit.ErrUnsigned) { // cut off just before its signature
				damaged++
				continue
			}
			if err != nil {
				t.Fatalf("%v in %q of %q", err, m, content)
			}
			out = append(out, c.Size)
		}
		return out, damaged
	}
	if got, damaged := sizes(file); len(got) != 3 || got[2] != 3 || damaged != 0 {
		t.Fatalf("got %v, %d damaged", got, damaged)
	}
	third := len(file) - len(audit.JoinCheckpoint(nil, sign(3)))
	for cut := third; cut <= len(file); cut++ {
		torn := append([]byte(nil), file[:cut]...)
		// Read as it is, and after the next one was appended.
		msgs, _ := audit.SplitCheckpoints(torn)
		for i, m := range msgs {
			if i < 2 || cut >= len(file)-1 {
				if _, err := audit.OpenCheckpoint(m, note.VerifierList(v)); err != nil {
					t.Fatalf("cut at %d: %v", cut, err)
				}
			}
		}
		if len(msgs) < 2 {
			t.Fatalf("cut at %d: only %d are left", cut, len(msgs))
		}
		whole := append(torn, audit.JoinCheckpoint(torn, sign(7))...)
		got, damaged := sizes(whole)
		switch {
		case len(got) < 3 || got[0] != 1 || got[1] != 2 || got[len(got)-1] != 7:
			t.Fatalf("cut at %d: %v, %d damaged", cut, got, damaged)
		case cut > third && cut < len(file)-1 && (len(got) != 3 || damaged == 0):
			t.Fatalf("cut at %d: %v, %d damaged", cut, got, damaged)
		}
	}
	// Single files: signed, plain, several plain ones, and no checkpoint at all.
	for _, c := range []struct {
		content       string
		n, damaged    int
		firstIsSigned bool
	}{
		{string(sign(3)), 1, 0, true}, {at(t, h, 3).String(), 1, 0, false}, {at(t, h, 3).String() + "\n" + at(t, h, 4).String(), 2, 0, false}, {"", 0, 0, false},
		{"garbage\n", 0, 1, false}, {"garbage", 0, 1, false}, {"\n\n", 0, 0, false}, {string(sign(3)[:len(sign(3))-1]), 0, 1, false},
	} {
		msgs, damaged := audit.SplitCheckpoints([]byte(c.content))
		if len(msgs) != c.n || damaged != c.damaged || c.n > 0 && strings.Contains(string(msgs[0]), "\n— ") != c.firstIsSigned {
			t.Errorf("%q: got %q, %d damaged", c.content, msgs, damaged)
		}
	}
}

func FuzzSplitCheckpoints(f *testing.F) {
	f.Add("curfew/audit/x\n3\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n\n— a AAAAAA==\n\n")
	f.Fuzz(func(t *testing.T, s string) {
		msgs, _ := audit.SplitCheckpoints([]byte(s))
		rest := s
		for _, m := range msgs { // each as it stands in the file, in that order
			_, after, ok := strings.Cut(rest, string(m))
			if !ok {
				t.Fatalf("%q does not stand in %q", m, rest)
			}
			if rest = after; len(m) == 0 {
				t.Fatal("an empty checkpoint")
			}
			if _, err := audit.ParseCheckpoint(m); err != nil {
				t.Fatal(err)
			}
		}
	})
}

// Each way in which a signature can be wrong is told apart.
func TestSignatureErrors(t *testing.T) {
	_, h := makeLog(t, 3)
	s, v := pair(t, "curfew/audit")
	_, other := pair(t, "curfew/audit")
	msg, err := at(t, h, 3).Sign(s)
	must(t, err)
	var key *audit.KeyError
	if _, err := audit.OpenCheckpoint(msg, note.VerifierList(other)); !errors.As(err, &key) || !strings.HasPrefix(key.By[0], "curfew/audit+") {
		t.Errorf("another key: %v", err)
	}
	var bad *audit.SignatureError
	if _, err := audit.OpenCheckpoint([]byte(strings.Replace(string(msg), "\n3\n", "\n2\n", 1)), note.VerifierList(v)); !errors.As(err, &bad) {
		t.Errorf("changed: %v", err)
	}
	if _, err := audit.OpenCheckpoint([]byte(at(t, h, 3).String()), note.VerifierList(v)); !errors.Is(err, audit.ErrUnsigned) {
		t.Errorf("unsigned: %v", err)
	}
}

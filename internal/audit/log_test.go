package audit_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"
	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/audit"
)

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// tree is a HashStore in memory.
type tree []tlog.Hash

func (h tree) ReadHashes(list []int64) ([]tlog.Hash, error) {
	var out []tlog.Hash
	for _, i := range list {
		if i >= int64(len(h)) {
			return nil, fmt.Errorf("no hash %d", i)
		}
		out = append(out, h[i])
	}
	return out, nil
}

func (h *tree) PutHashes(first int64, list []tlog.Hash) error {
	if first != int64(len(*h)) {
		return fmt.Errorf("hash %d is not the next", first)
	}
	*h = append(*h, list...)
	return nil
}

// export is a Reader of records alone, as from a file.
type export [][]byte

func (r export) Entries(_ context.Context, fn func(audit.Stored) error) error {
	for i, b := range r {
		if err := fn(audit.Stored{Index: int64(i), Record: b}); err != nil {
			return err
		}
	}
	return nil
}

func makeLog(t testing.TB, n int) (export, tree) {
	t.Helper()
	var records export
	var h tree
	for i := range n {
		b, err := audit.Entry{Index: int64(i), At: time.Unix(int64(i), 5).UTC(), Actor: "a", Action: "b", Message: fmt.Sprint(i), Late: i%3 == 0}.Record()
		must(t, err)
		must(t, audit.Append(&h, int64(i), b))
		records = append(records, b)
	}
	return records, h
}

func at(t testing.TB, h tree, size int64) audit.Checkpoint {
	t.Helper()
	c, err := audit.MakeCheckpoint("curfew/audit/test", size, h)
	must(t, err)
	return c
}

// Proofs and Verify agree with tlog at every size, and hold for nothing else.
func TestProofsAndVerify(t *testing.T) {
	const n = 33
	records, h := makeLog(t, n)
	for size := int64(0); size <= n; size++ {
		now := at(t, h, size)
		rep, err := audit.Verify(t.Context(), records[:size], now)
		must(t, err)
		if rep.Root != now.Root || rep.Size != size || rep.Late != (size+2)/3 {
			t.Errorf("size %d: got %+v", size, rep)
		}
		for i := range size {
			p, err := audit.Inclusion(i, size, h)
			must(t, err)
			must(t, audit.CheckInclusion(p, now, i, records[i]))
			if audit.CheckInclusion(p, now, i, []byte("x")) == nil {
				t.Errorf("size %d: the proof of entry %d holds for another record", size, i)
			}
		}
		for older := int64(0); older <= size; older++ {
			p, err := audit.Consistency(older, size, h)
			must(t, err)
			must(t, audit.CheckConsistency(p, now, at(t, h, older)))
			forged := at(t, h, older)
			forged.Root[3] ^= 1
			if audit.CheckConsistency(p, now, forged) == nil {
				t.Errorf("size %d continues a forged log of %d", size, older)
			}
		}
	}
	for _, bad := range [][2]int64{{5, 5}, {-1, 5}} {
		if _, err := audit.Inclusion(bad[0], bad[1], h); err == nil {
			t.Errorf("a proof of entry %d in %d", bad[0], bad[1])
		}
	}
	if _, err := audit.Consistency(6, 5, h); err == nil {
		t.Error("a proof that 5 entries begin with 6")
	}
}

// P7: whatever is done to an export, an older checkpoint notices; untouched, it never does.
func TestVerifyNoticesAnyChange(t *testing.T) {
	records, h := makeLog(t, 40)
	rapid.Check(t, func(rt *rapid.T) {
		var older []audit.Checkpoint
		for _, s := range rapid.SliceOfN(rapid.Int64Range(0, 40), 0, 4).Draw(rt, "older") {
			older = append(older, at(t, h, s))
		}
		if _, err := audit.Verify(t.Context(), records, at(t, h, 40), older...); err != nil {
			rt.Fatalf("a log that nobody touched: %v", err)
		}
		log := append(export(nil), records...)
		i := rapid.IntRange(0, 39).Draw(rt, "entry")
		switch rapid.SampledFrom([]string{"byte", "remove", "insert", "cut", "swap"}).Draw(rt, "change") {
		case "byte":
			b := []byte(string(log[i]))
			b[rapid.IntRange(0, len(b)-1).Draw(rt, "byte")] ^= byte(1 << rapid.IntRange(0, 7).Draw(rt, "bit"))
			log[i] = b
		case "remove":
			log = append(log[:i:i], log[i+1:]...)
		case "insert":
			log = append(log[:i:i], append(export{log[i]}, log[i:]...)...)
		case "cut":
			log = log[:i]
		case "swap":
			j := (i + 1) % 40
			log[i], log[j] = log[j], log[i]
		}
		_, err := audit.Verify(t.Context(), log, at(t, h, 40), older...)
		var e *audit.TamperError
		if !errors.As(err, &e) || e.Index > 40 {
			rt.Fatalf("got %v", err)
		}
	})
}

// Between which checkpoints, if no more can be said.
func TestVerifyNamesTheRange(t *testing.T) {
	records, h := makeLog(t, 40)
	older := []audit.Checkpoint{at(t, h, 30), at(t, h, 10), at(t, h, 20), at(t, h, 10)}
	records[17] = []byte(strings.Replace(string(records[17]), `"message":"17"`, `"message":"18"`, 1))
	rep, err := audit.Verify(t.Context(), records, at(t, h, 40), older...)
	if err == nil || !strings.Contains(err.Error(), "from 10 to 19") || !reflect.DeepEqual(rep.Against, []int64{10, 10}) {
		t.Errorf("got %v, %+v", err, rep)
	}
	boom := errors.New("boom")
	if _, err := audit.Verify(t.Context(), failing{boom}, at(t, h, 0)); !errors.Is(err, boom) {
		t.Errorf("got %v, want the reader's error as it is", err)
	}
}

type failing struct{ err error }

func (f failing) Entries(context.Context, func(audit.Stored) error) error { return f.err }

func TestCheckpointText(t *testing.T) {
	_, h := makeLog(t, 3)
	c := at(t, h, 3)
	lines := strings.Split(c.String(), "\n")
	if len(lines) != 4 || lines[0] != "curfew/audit/test" || lines[1] != "3" || len(lines[2]) != 44 {
		t.Errorf("got %q", c)
	}
	back, err := audit.ParseCheckpoint([]byte(c.String()))
	must(t, err)
	if back != c {
		t.Errorf("got %v, want %v", back, c)
	}
	if back, err = audit.ParseCheckpoint([]byte(c.String() + "extension\n\n— sig\n")); err != nil || back != c {
		t.Errorf("with more lines: %v, %v", back, err)
	}
	for _, bad := range []string{"", "a\n", "a\n1\n", "\n1\n" + lines[2] + "\n", "a\n01\n" + lines[2] + "\n", "a\n-1\n" + lines[2] + "\n", "a\n+1\n" + lines[2] + "\n",
		"a\n1\nAAAA\n", "a\n1\n" + lines[2][:4] + "\r" + lines[2][4:] + "\n", "a\n1\n" + lines[2], "a\n1\n" + lines[2][:43] + "\n", "a\nx\n" + lines[2] + "\n", "a\n99999999999999999999\n" + lines[2] + "\n"} {
		if c, err := audit.ParseCheckpoint([]byte(bad)); err == nil {
			t.Errorf("%q was read as %v", bad, c)
		}
	}
}

func FuzzParseCheckpoint(f *testing.F) {
	f.Add("curfew/audit/x\n3\n47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=\n")
	f.Fuzz(func(t *testing.T, s string) {
		c, err := audit.ParseCheckpoint([]byte(s))
		if err == nil && !strings.HasPrefix(s, c.String()) {
			t.Errorf("%q was read as %q", s, c)
		}
	})
}

// The seam for keys: a signed checkpoint opens with its verifier, and with no other.
func TestSignedCheckpoint(t *testing.T) {
	_, h := makeLog(t, 3)
	c := at(t, h, 3)
	key := func() (note.Signer, note.Verifier) {
		skey, vkey, err := note.GenerateKey(nil, "curfew")
		must(t, err)
		s, err := note.NewSigner(skey)
		must(t, err)
		v, err := note.NewVerifier(vkey)
		must(t, err)
		return s, v
	}
	s, v := key()
	_, other := key()
	msg, err := c.Sign(s)
	must(t, err)
	back, err := audit.OpenCheckpoint(msg, note.VerifierList(v))
	if err != nil || back != c {
		t.Errorf("got %v, %v", back, err)
	}
	if _, err := audit.OpenCheckpoint(msg, note.VerifierList(other)); err == nil {
		t.Error("opened with another key")
	}
	if _, err := audit.OpenCheckpoint([]byte(strings.Replace(string(msg), "\n3\n", "\n4\n", 1)), note.VerifierList(v)); err == nil {
		t.Error("opened after a change")
	}
	if _, err := audit.OpenCheckpoint([]byte(c.String()), note.VerifierList(v)); err == nil {
		t.Error("opened unsigned")
	}
	if back, err := audit.OpenCheckpoint(msg, nil); err != nil || back != c {
		t.Errorf("without verifiers: %v, %v", back, err)
	}
}

// What was read back from a record has the same record, whatever was written into it: a log that is fetched entry by entry verifies.
func TestRecordIsStable(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		text := func(label string) string { return string(rapid.SliceOfN(rapid.Byte(), 0, 12).Draw(rt, label)) }
		e := audit.Entry{Index: 3, At: time.Unix(1, 5).UTC(), Actor: text("actor"), Action: text("action"), Outcome: audit.Outcome(text("outcome")), Message: text("message"),
			Object: text("object"), VM: text("vm"), Request: text("request"), Correlation: text("correlation"),
			Detail: map[string]string{text("k1"): text("v1"), text("k2"): text("v2")}}
		b, err := e.Record()
		must(t, err)
		var back audit.Entry
		must(t, json.Unmarshal(b, &back))
		again, err := back.Record()
		must(t, err)
		if string(again) != string(b) {
			rt.Errorf("%q was read back as %q", b, again)
		}
	})
}

// A copy proves what its checkpoints cover, and no more.
func TestVerifyCopy(t *testing.T) {
	records, h := makeLog(t, 20)
	rep, err := audit.VerifyCopy(t.Context(), records, at(t, h, 12), at(t, h, 5))
	if err != nil || rep.Size != 20 || !reflect.DeepEqual(rep.Against, []int64{5, 12}) {
		t.Errorf("got %+v, %v", rep, err)
	}
	if _, err := audit.VerifyCopy(t.Context(), records); err == nil {
		t.Error("verified against nothing")
	}
	var tamper *audit.TamperError
	if _, err := audit.VerifyCopy(t.Context(), records[:11], at(t, h, 12)); !errors.As(err, &tamper) || !strings.Contains(err.Error(), "had 12 entries") {
		t.Errorf("truncated: %v", err)
	}
	changed := append(export(nil), records...)
	changed[3] = []byte(strings.Replace(string(records[3]), `"message":"3"`, `"message":"9"`, 1))
	if _, err := audit.VerifyCopy(t.Context(), changed, at(t, h, 12)); !errors.As(err, &tamper) || !strings.Contains(err.Error(), "from 0 to 11") {
		t.Errorf("rewritten: %v", err)
	}
	foreign := at(t, h, 12)
	foreign.Origin = "curfew/audit/other"
	var other *audit.ForeignError
	if _, err := audit.VerifyCopy(t.Context(), records, at(t, h, 5), foreign); !errors.As(err, &other) {
		t.Errorf("foreign: %v", err)
	}
}

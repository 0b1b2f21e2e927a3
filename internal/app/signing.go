package app

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/clock"
)

// Signing says how checkpoints of the audit log are signed.
type Signing struct {
	Key   audit.Key
	File  string        // to which they are appended, outside the data folder; "": they are only served
	Every time.Duration // 0: an hour
}

// LoadSigning reads the key and finds the file: a folder stands for a file in it that is called after the installation. Whatever is
// missing, unreadable or cannot be written is an error: a server that was told to sign does not run without.
func LoadSigning(keyFile, checkpoints, installation string, every time.Duration) (*Signing, error) {
	bad := func(field, format string, args ...any) error {
		e := access.Errorf(access.CodeInvalid, format, args...)
		e.Field = field
		return e
	}
	b, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, access.Errorf(access.CodeInvalid, "the key that signs the audit log's checkpoints cannot be read: %v", err).
			WithHint("make one with: curfew audit keygen --out FILE; or take audit.signing_key_file out of the configuration, if nothing is to be signed")
	}
	s := &Signing{File: checkpoints, Every: every}
	if s.Key, err = audit.ParseKey(string(b)); err != nil {
		return nil, bad("audit.signing_key_file", "%s cannot sign the audit log's checkpoints: %v", keyFile, err)
	}
	if s.File == "" {
		return s, nil
	}
	if st, err := os.Stat(s.File); err == nil && st.IsDir() {
		s.File = filepath.Join(s.File, "curfew-"+installation+".checkpoints")
	}
	f, err := os.OpenFile(s.File, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644) // nothing in it is secret, and whoever verifies reads it
	if err != nil {
		return nil, bad("audit.checkpoint_file", "signed checkpoints cannot be appended to %s: %v", s.File, err)
	}
	return s, f.Close()
}

// signedLog is what signing needs of the store.
type signedLog interface {
	Checkpoint(ctx context.Context) (audit.Checkpoint, error)
	ProveConsistency(ctx context.Context, older, size int64) (tlog.TreeProof, error)
}

// notary signs checkpoints: on an interval, at the end, and for whoever asks. While the log is not taken for the right one it signs
// nothing, because a signature under a log that was cut off would make it look whole.
type notary struct {
	Signing
	log      signedLog
	clock    clock.Clock
	out      *slog.Logger
	failures prometheus.Counter
	size     prometheus.Gauge

	mu      sync.Mutex
	doubt   string           // why nothing is signed
	newest  audit.Checkpoint // as it stands in the file; Origin is "" if none does
	failing bool
}

func newNotary(s Signing, log signedLog, clk clock.Clock, out *slog.Logger, reg prometheus.Registerer) (*notary, error) {
	if s.Every <= 0 {
		s.Every = time.Hour
	}
	n := &notary{Signing: s, log: log, clock: clk, out: out,
		failures: prometheus.NewCounter(prometheus.CounterOpts{Name: "curfew_audit_sign_failures_total", Help: "Checkpoints that could not be signed or appended."}),
		size:     prometheus.NewGauge(prometheus.GaugeOpts{Name: "curfew_audit_signed_entries", Help: "Entries of the audit log that the newest signed checkpoint covers."})}
	if err := reg.Register(n.failures); err != nil {
		return nil, err
	}
	return n, reg.Register(n.size)
}

// compare holds the log against the newest checkpoint in the file, and returns why they do not fit; "" if they do, or if the file holds
// none yet. The newest is the last one: after a restored database was accepted the log may be shorter than before.
func (n *notary) compare(ctx context.Context) (string, error) {
	if n.File == "" {
		return "", nil
	}
	b, err := os.ReadFile(n.File)
	if err != nil {
		return "", access.Errorf(access.CodeUnavailable, "the signed checkpoints in %s cannot be read", n.File).Wrap(err).
			WithHint("make the file readable for the server's account")
	}
	now, err := n.log.Checkpoint(ctx)
	if err != nil {
		return "", err
	}
	msgs, damaged := audit.SplitCheckpoints(b)
	if damaged > 0 {
		n.out.Warn("checkpoints of the audit log are cut off or damaged", "file", n.File, "number", damaged)
	}
	for i := len(msgs) - 1; i >= 0; i-- {
		was, err := audit.OpenCheckpoint(msgs[i], note.VerifierList(n.Key.Verifier))
		if errors.Is(err, audit.ErrUnsigned) { // cut off just before its signature
			n.out.Warn("a checkpoint of the audit log is not signed, and not looked at", "file", n.File)
			continue
		}
		if err != nil {
			return fmt.Sprintf("the newest checkpoint in %s cannot be trusted: %v", n.File, err), nil
		}
		n.newest = was
		return n.fits(ctx, was, now)
	}
	if now.Size > 0 {
		n.out.Warn("there is no signed checkpoint yet, so that nothing can be said about the audit log before now", "file", n.File, "entries", now.Size)
	}
	return "", nil
}

func (n *notary) fits(ctx context.Context, was, now audit.Checkpoint) (string, error) {
	switch {
	case was.Origin != now.Origin:
		return fmt.Sprintf("its audit log is %s, and the newest signed checkpoint in %s is of %s", now.Origin, n.File, was.Origin), nil
	case now.Size < was.Size:
		return fmt.Sprintf("its audit log has %d entries, and had %d when the newest checkpoint in %s was signed", now.Size, was.Size, n.File), nil
	}
	proof, err := n.log.ProveConsistency(ctx, was.Size, now.Size)
	if err != nil {
		return "", err
	}
	if audit.CheckConsistency(proof, now, was) != nil {
		return fmt.Sprintf("the first %d entries of its audit log are not those that were there when the newest checkpoint in %s was signed", was.Size, n.File), nil
	}
	return "", nil
}

// hold stops signing until accept.
func (n *notary) hold(why string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.doubt = why
}

// accept takes the log as it is for the right one, and signs it at once. If that fails nothing is accepted.
func (n *notary) accept(ctx context.Context) error {
	n.mu.Lock()
	doubt := n.doubt
	n.doubt = ""
	n.mu.Unlock()
	if doubt == "" {
		return nil
	}
	if err := n.sign(ctx, true); err != nil {
		n.hold(doubt)
		return access.Errorf(access.CodeUnavailable, "no signed checkpoint could be appended to %s, so the log is still not taken for the right one", n.File).
			Wrap(err).WithHint("free space there, or check the rights, and try again")
	}
	return nil
}

// text is a checkpoint as it is served: signed, or as it is with the reason.
func (n *notary) text(c audit.Checkpoint) (text, unsigned string, err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.doubt != "" {
		return c.String(), "nothing is signed until an admin has looked: " + n.doubt, nil
	}
	b, err := c.Sign(n.Key.Signer)
	return string(b), "", err
}

// run signs on the interval until ctx ends.
func (n *notary) run(ctx context.Context) {
	for {
		n.note(n.sign(ctx, false))
		select {
		case <-n.clock.After(n.Every):
		case <-ctx.Done():
			return
		}
	}
}

// close signs what was written since.
func (n *notary) close() {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	n.note(n.sign(ctx, false))
}

func (n *notary) note(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err != nil {
		n.failures.Inc()
		if !n.failing {
			n.out.Error("the audit log's checkpoint could not be signed and kept; what is written meanwhile could be cut off unseen", "file", n.File, "error", err)
		}
	} else if n.failing {
		n.out.Info("checkpoints of the audit log are signed and kept again", "file", n.File)
	}
	n.failing = err != nil
}

// sign appends the log's checkpoint to the file, unless it is the newest there already.
func (n *notary) sign(ctx context.Context, again bool) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.File == "" || n.doubt != "" {
		return nil
	}
	c, err := n.log.Checkpoint(ctx)
	if err != nil {
		return err
	}
	if c == n.newest && !again || c.Size == 0 {
		return nil
	}
	msg, err := c.Sign(n.Key.Signer)
	if err != nil {
		return err
	}
	if err := appendCheckpoint(n.File, msg); err != nil {
		return err
	}
	n.newest = c
	n.size.Set(float64(c.Size))
	return nil
}

// appendCheckpoint adds a checkpoint behind what the file holds, durably. The file is opened anew each time and only ever appended to: it
// may be moved away, and a file system may forbid anything else.
func appendCheckpoint(file string, msg []byte) (err error) {
	tail, err := tailOf(file)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(file, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	if _, err := f.Write(audit.JoinCheckpoint(tail, msg)); err != nil {
		return err
	}
	return f.Sync()
}

// tailOf returns the last bytes of a file: more than its last line.
func tailOf(file string) ([]byte, error) {
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return nil, err
	}
	tail := make([]byte, min(st.Size(), 4096))
	_, err = f.ReadAt(tail, st.Size()-int64(len(tail)))
	return tail, err
}

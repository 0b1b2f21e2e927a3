// Package credential keeps the command line's sessions: for each server the token that it gave at sign-in, in the system's keyring where
// there is one, else in a file that its owner alone can read. A token is only ever returned for the server that gave it.
//
// Who can read the user's files and keyring can act as the user until the session ends: that is what a session is. What is kept out
// are other accounts of the machine, backups of a readable file, and a keyring that hangs.
package credential

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/clock"
)

// Session is a sign-in at one server.
type Session struct {
	Server  string    `json:"server"` // as Canonical writes it
	Name    string    `json:"name"`
	Expires time.Time `json:"expires_at,omitzero"`
	// Token is a secret.
	Token string `json:"token,omitempty"`
}

// Keyring is the system's, or a test's. A secret that is not there is ErrNotFound.
type Keyring interface {
	Get(server string) (string, error)
	Set(server, secret string) error
	Delete(server string) error
}

// ErrNotFound says that a keyring holds nothing for a server.
var ErrNotFound = errors.New("the keyring holds nothing for this server")

// Patience is how long a keyring may take for an answer before it counts as absent: a person may have to unlock it.
const Patience = 20 * time.Second

// maxFile bounds what is read of one file.
const maxFile = 64 << 10

// Store keeps sessions. Several processes may use one: each server has a file of its own, which is replaced whole.
type Store struct {
	Dir      string  // of the files; made when the first session is kept
	Keyring  Keyring // nil: files alone
	Clock    clock.Clock
	Patience time.Duration // 0: Patience
	// Waiting is told once when a keyring takes long; nil: nobody.
	Waiting func()
}

// record is what a file holds: where the token is, and the token itself only where no keyring has it.
type record struct {
	Session
	Kept string `json:"kept"`
}

// Where a token is.
const (
	InKeyring = "keyring"
	InFile    = "file"
)

// Canonical writes a server's URL in one way, so that a session is found again however the URL was typed, and for no other server.
func Canonical(server string) (string, error) {
	u, err := url.Parse(strings.TrimSpace(server))
	if err != nil || u.Host == "" || u.Scheme == "" {
		return "", access.Errorf(access.CodeInvalid, "%q is not the URL of a server", server)
	}
	u.Scheme, u.Host = strings.ToLower(u.Scheme), strings.ToLower(u.Host)
	if u.Scheme == "https" && u.Port() == "443" || u.Scheme == "http" && u.Port() == "80" {
		u.Host = strings.TrimSuffix(u.Host, ":"+u.Port())
	}
	return u.Scheme + "://" + u.Host + strings.TrimRight(u.EscapedPath(), "/"), nil
}

// File is where the session of a server stands, or would; server is canonical.
func (s *Store) File(server string) string {
	sum := sha256.Sum256([]byte(server))
	return filepath.Join(s.Dir, hex.EncodeToString(sum[:10])+".json")
}

// Get returns the session at a server, a zero one if there is none. A file that others can read or wrote is refused, and the error says
// how to mend it: its token may be known, and its server may be somebody else's.
func (s *Store) Get(ctx context.Context, server string) (Session, error) {
	server, err := Canonical(server)
	if err != nil {
		return Session{}, err
	}
	r, err := s.read(server)
	if err != nil || r.Server == "" {
		return Session{}, err
	}
	if r.Kept != InKeyring {
		return r.Session, nil
	}
	if s.Keyring == nil {
		return Session{}, access.Errorf(access.CodeUnauthenticated, "the session at %s is kept in the system's keyring, which is not there", server).
			WithHint("sign in again with: curfew login")
	}
	if r.Token, err = bounded(ctx, s, func() (string, error) { return s.Keyring.Get(server) }); err != nil {
		return Session{}, access.Errorf(access.CodeUnauthenticated, "the session at %s cannot be had from the system's keyring: %s", server, s.why(err)).
			WithHint("unlock the keyring and try again, or sign in again with: curfew login").Wrap(err)
	}
	return r.Session, nil
}

func (s *Store) read(server string) (record, error) {
	file := s.File(server)
	f, err := os.Open(file)
	if errors.Is(err, fs.ErrNotExist) {
		return record{}, nil
	}
	fail := func(format string, args ...any) (record, error) {
		return record{}, access.Errorf(access.CodeDenied, format, args...).WithHint("remove it, and sign in again with: curfew login")
	}
	if err != nil {
		return fail("the session in %s cannot be read: %v", file, err)
	}
	defer f.Close()
	if err := private(f); err != nil { // of the file that is open, not of what stands there a moment later
		return record{}, err
	}
	b, err := io.ReadAll(io.LimitReader(f, maxFile))
	if err != nil {
		return fail("the session in %s cannot be read: %v", file, err)
	}
	var r record
	if err := json.Unmarshal(b, &r); err != nil || r.Server != server || r.Kept != InKeyring && r.Kept != InFile || r.Kept == InFile && r.Token == "" {
		return fail("%s does not hold a session at %s", file, server)
	}
	return r, nil
}

// Put keeps a session in place of an earlier one, and returns where its token is now. Where the keyring does not take it, it goes into a
// file, and why says why; why is "" where there is no keyring.
func (s *Store) Put(ctx context.Context, in Session) (kept, why string, err error) {
	if in.Server, err = Canonical(in.Server); err != nil {
		return "", "", err
	}
	r := record{Session: in, Kept: InFile}
	if s.Keyring != nil {
		_, kerr := bounded(ctx, s, func() (string, error) {
			if err := s.Keyring.Set(in.Server, in.Token); err != nil {
				return "", err
			}
			if back, err := s.Keyring.Get(in.Server); err != nil || back != in.Token { // some take everything and keep nothing
				return "", errors.Join(errors.New("it does not give back what it was given"), err)
			}
			return "", nil
		})
		if kerr == nil {
			r.Kept, r.Token = InKeyring, ""
		} else {
			why = s.why(kerr)
		}
	}
	if err := s.write(r); err != nil {
		return "", why, access.Errorf(access.CodeUnavailable, "the session could not be kept in %s: %v", s.Dir, err).
			WithHint("make the directory writable for yourself")
	}
	return r.Kept, why, nil
}

// write replaces the file of a server whole, so that another process reads the old one or the new one.
func (s *Store) write(r record) error {
	b, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return err
	}
	f, err := os.CreateTemp(s.Dir, ".new-*") // with mode 0600 from the start
	if err != nil {
		return err
	}
	defer os.Remove(f.Name()) // gone already once it was renamed
	_, err = f.Write(append(b, '\n'))
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return os.Rename(f.Name(), s.File(r.Server))
}

// Delete forgets the session at a server, also one that could not be read. That there was none is no error.
func (s *Store) Delete(ctx context.Context, server string) error {
	server, err := Canonical(server)
	if err != nil {
		return err
	}
	r, rerr := s.read(server)
	if err := os.Remove(s.File(server)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return access.Errorf(access.CodeUnavailable, "the session in %s could not be removed: %v", s.File(server), err).WithHint("remove it yourself")
	}
	if s.Keyring == nil || rerr == nil && r.Kept != InKeyring {
		return nil
	}
	_, err = bounded(ctx, s, func() (string, error) { return "", s.Keyring.Delete(server) })
	if err != nil && !errors.Is(err, ErrNotFound) && rerr == nil {
		return access.Errorf(access.CodeUnavailable, "the system's keyring still holds the token for %s: %s", server, s.why(err)).
			WithHint("remove the entry of curfew for %s there", server).Wrap(err)
	}
	return nil
}

var errSlow = errors.New("no answer in time")

func (s *Store) patience() time.Duration {
	if s.Patience > 0 {
		return s.Patience
	}
	return Patience
}

func (s *Store) why(err error) string {
	if errors.Is(err, errSlow) {
		return fmt.Sprintf("it did not answer within %s", s.patience())
	}
	return err.Error()
}

// bounded calls a keyring, which cannot be told to stop: one that hangs is left behind.
func bounded(ctx context.Context, s *Store, call func() (string, error)) (string, error) {
	type result struct {
		secret string
		err    error
	}
	done := make(chan result, 1)
	go func() {
		secret, err := call()
		done <- result{secret, err}
	}()
	late, end := s.Clock.After(min(2*time.Second, s.patience()/2)), s.Clock.After(s.patience())
	for {
		select {
		case r := <-done:
			return r.secret, r.err
		case <-late:
			late = nil
			if s.Waiting != nil {
				s.Waiting()
			}
		case <-end:
			return "", errSlow
		case <-ctx.Done():
			return "", ctx.Err()
		}
	}
}

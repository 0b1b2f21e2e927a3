package credential_test

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/credential"
)

const secret = "cfs_0123456789abcdef0123456789abcdef"

// ring is a keyring that can be broken.
type ring struct {
	mu    sync.Mutex
	held  map[string]string
	err   error
	hangs chan struct{} // not nil: until it is closed
	loses bool
}

func (r *ring) broken() error {
	if r.hangs != nil {
		<-r.hangs
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.err
}

func (r *ring) Get(server string) (string, error) {
	if err := r.broken(); err != nil {
		return "", err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if v, ok := r.held[server]; ok {
		return v, nil
	}
	return "", credential.ErrNotFound
}

func (r *ring) Set(server, v string) error {
	if err := r.broken(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.held == nil {
		r.held = map[string]string{}
	}
	if !r.loses {
		r.held[server] = v
	}
	return nil
}

func (r *ring) Delete(server string) error {
	if err := r.broken(); err != nil {
		return err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, ok := r.held[server]; !ok {
		return credential.ErrNotFound
	}
	delete(r.held, server)
	return nil
}

func store(t *testing.T, k credential.Keyring) *credential.Store {
	t.Helper()
	return &credential.Store{Dir: filepath.Join(t.TempDir(), "curfew", "sessions"), Keyring: k, Clock: clock.System{}}
}

// text is all that stands in the files of a store.
func text(t *testing.T, s *credential.Store) string {
	t.Helper()
	var b strings.Builder
	err := filepath.WalkDir(s.Dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		c, err := os.ReadFile(p)
		b.Write(c)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return b.String()
}

func put(t *testing.T, s *credential.Store, server, token string) (kept, why string) {
	t.Helper()
	kept, why, err := s.Put(t.Context(), credential.Session{Server: server, Name: "asker", Token: token})
	if err != nil {
		t.Fatal(err)
	}
	return kept, why
}

func token(t *testing.T, s *credential.Store, server string) string {
	t.Helper()
	got, err := s.Get(t.Context(), server)
	if err != nil {
		t.Fatal(err)
	}
	return got.Token
}

// Each server has its own, however its URL is written, and no other server gets it.
func TestPerServer(t *testing.T) {
	for _, k := range []credential.Keyring{nil, &ring{}} {
		s := store(t, k)
		put(t, s, "https://Curfew.Example.com:443/", secret)
		put(t, s, "https://other.example.com", "another")
		for server, want := range map[string]string{
			"https://curfew.example.com": secret, "HTTPS://CURFEW.example.com/": secret, "https://other.example.com": "another",
			"http://curfew.example.com": "", "https://curfew.example.com:8443": "", "https://curfew.example.com/x": "", "https://curfew.example.com.evil.example": "",
			"https://example.com": "",
		} {
			if got := token(t, s, server); got != want {
				t.Errorf("%s: got %q, want %q", server, got, want)
			}
		}
		put(t, s, "https://curfew.example.com", "newer")
		if got := token(t, s, "https://curfew.example.com"); got != "newer" {
			t.Errorf("not replaced: %q", got)
		}
		for range 2 {
			if err := s.Delete(t.Context(), "https://curfew.example.com"); err != nil {
				t.Fatal(err)
			}
		}
		if token(t, s, "https://curfew.example.com") != "" || token(t, s, "https://other.example.com") != "another" {
			t.Error("not the one that was named was forgotten")
		}
		if _, err := s.Get(t.Context(), "no url"); err == nil {
			t.Error("what is no URL has a session")
		}
	}
}

func TestFileIsItsUsersAlone(t *testing.T) {
	if runtime.GOOS == "windows" {
		return // the directory is closed to others there
	}
	s := store(t, nil)
	if kept, why := put(t, s, "https://a.example", secret); kept != credential.InFile || why != "" {
		t.Errorf("kept in %s, %s", kept, why)
	}
	file := s.File("https://a.example")
	for path, want := range map[string]fs.FileMode{file: 0o600, s.Dir: 0o700 | fs.ModeDir} {
		if st, err := os.Stat(path); err != nil || st.Mode() != want {
			t.Errorf("%s: %v, %v", path, st.Mode(), err)
		}
	}
	for _, mode := range []fs.FileMode{0o640, 0o604, 0o620, 0o666, 0o644} {
		if err := os.Chmod(file, mode); err != nil {
			t.Fatal(err)
		}
		got, err := s.Get(t.Context(), "https://a.example")
		var e *access.Error
		if got.Token != "" || !errors.As(err, &e) || !strings.Contains(e.Hint, "chmod 600 '"+file+"'") || strings.Contains(e.Error()+e.Hint, secret) {
			t.Errorf("mode %o: %q, %v", mode, got.Token, err)
		}
	}
	// The fix of the hint, and signing in again, which also mends it.
	if err := os.Chmod(file, 0o600); err != nil || token(t, s, "https://a.example") != secret {
		t.Error("not mended by the fix", err)
	}
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	put(t, s, "https://a.example", secret)
	if token(t, s, "https://a.example") != secret {
		t.Error("not mended by a new sign-in")
	}
	// A file of another server under this one's name; what is no file; what is broken.
	other, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	victim := s.File("https://b.example")
	for what, write := range map[string]func() error{
		"another server's": func() error { return os.WriteFile(victim, other, 0o600) },
		"a directory":      func() error { return os.Mkdir(victim, 0o700) },
		"half of one":      func() error { return os.WriteFile(victim, other[:len(other)/2], 0o600) },
		"empty":            func() error { return os.WriteFile(victim, nil, 0o600) },
	} {
		if err := write(); err != nil {
			t.Fatal(err)
		}
		if got, err := s.Get(t.Context(), "https://b.example"); err == nil || got.Token != "" {
			t.Errorf("%s: %+v, %v", what, got, err)
		}
		if err := s.Delete(t.Context(), "https://b.example"); err != nil {
			t.Errorf("%s is not forgotten: %v", what, err)
		}
	}
}

// Nothing but the session's name and place is in a file where the keyring has the token.
func TestKeyring(t *testing.T) {
	k := &ring{}
	s := store(t, k)
	if kept, _ := put(t, s, "https://a.example", secret); kept != credential.InKeyring || k.held["https://a.example"] != secret {
		t.Fatalf("kept in %s", kept)
	}
	if strings.Contains(text(t, s), secret) {
		t.Error("the token is in a file too")
	}
	// The keyring is gone, or has lost it, or is locked: said so, never taken for signed out without a word.
	k.err = errors.New("locked")
	if got, err := s.Get(t.Context(), "https://a.example"); err == nil || got.Token != "" || !strings.Contains(err.Error(), "locked") {
		t.Errorf("%+v, %v", got, err)
	}
	k.err = nil
	delete(k.held, "https://a.example")
	if _, err := s.Get(t.Context(), "https://a.example"); !errors.Is(err, credential.ErrNotFound) {
		t.Errorf("%v", err)
	}
	without := *s
	without.Keyring = nil
	if _, err := without.Get(t.Context(), "https://a.example"); err == nil {
		t.Error("a session in a keyring that is not there")
	}
	if token(t, &without, "https://b.example") != "" {
		t.Error("a session at a server without one")
	}
	// A keyring that fails or loses what it is given: into a file, and said why.
	for what, k := range map[string]*ring{"refuses": {err: errors.New("no")}, "does not give back": {loses: true}} {
		s := store(t, k)
		if kept, why := put(t, s, "https://a.example", secret); kept != credential.InFile || why == "" || token(t, s, "https://a.example") != secret {
			t.Errorf("%s: kept in %s, %q", what, kept, why)
		}
	}
	// What cannot be removed there is said, and the file is gone all the same.
	put(t, s, "https://a.example", secret)
	k.err = errors.New("locked")
	if err := s.Delete(t.Context(), "https://a.example"); err == nil || !strings.Contains(err.Error(), "still holds") {
		t.Errorf("%v", err)
	}
	k.err = nil
	if token(t, s, "https://a.example") != "" {
		t.Error("not forgotten")
	}
}

// A keyring that hangs costs its patience, once, with a word; and nothing where no session is in it.
func TestKeyringHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		k := &ring{hangs: make(chan struct{})}
		defer close(k.hangs)
		s := store(t, k)
		told := 0
		s.Waiting = func() { told++ }
		began := time.Now()
		kept, why := put(t, s, "https://a.example", secret)
		if took := time.Since(began); kept != credential.InFile || !strings.Contains(why, "20s") || took != credential.Patience || told != 1 {
			t.Errorf("kept in %s after %s: %q, told %d times", kept, took, why, told)
		}
		began = time.Now()
		if token(t, s, "https://a.example") != secret || token(t, s, "https://b.example") != "" || time.Since(began) != 0 {
			t.Error("the keyring is asked for what it does not have")
		}
		if err := s.Delete(t.Context(), "https://a.example"); err != nil || time.Since(began) != 0 {
			t.Errorf("%v after %s", err, time.Since(began))
		}
	})
}

// The same with the machine's own library, and a message bus that takes the connection and never answers.
func TestSystemKeyringHangs(t *testing.T) {
	if runtime.GOOS != "linux" {
		return // elsewhere the keyring is not reached through a socket
	}
	sock := filepath.Join(t.TempDir(), "bus")
	l, err := net.Listen("unix", sock)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	reached := make(chan struct{}, 10)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			defer c.Close()
			reached <- struct{}{}
		}
	}()
	t.Setenv("DBUS_SESSION_BUS_ADDRESS", "unix:path="+sock)
	k := credential.System(os.Getenv)
	if k == nil {
		t.Fatal("a bus is named, and no keyring is looked for")
	}
	s := store(t, k)
	s.Patience = 200 * time.Millisecond
	began := time.Now()
	kept, why := put(t, s, "https://a.example", secret)
	if took := time.Since(began); kept != credential.InFile || why == "" || took > 10*time.Second || token(t, s, "https://a.example") != secret {
		t.Errorf("kept in %s after %s: %q", kept, took, why)
	}
	select {
	case <-reached:
	case <-time.After(10 * time.Second):
		t.Error("the bus was not asked: this test shows nothing")
	}
	t.Setenv("CURFEW_KEYRING", "off")
	if credential.System(os.Getenv) != nil {
		t.Error("a keyring that was switched off")
	}
}

// Processes that write at once leave one whole session, never parts of two.
func TestConcurrentWrites(t *testing.T) {
	s := store(t, nil)
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				if _, _, err := s.Put(t.Context(), credential.Session{Server: "https://a.example", Name: "x", Token: secret}); err != nil {
					t.Error(err)
				}
				if got, err := s.Get(t.Context(), "https://a.example"); err != nil || got.Token != secret {
					t.Errorf("%+v, %v", got, err)
				}
			}
		})
	}
	all.Wait()
	left, err := os.ReadDir(s.Dir)
	if err != nil || len(left) != 1 {
		t.Errorf("%d files are left, %v", len(left), err)
	}
}

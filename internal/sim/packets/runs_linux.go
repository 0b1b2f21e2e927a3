package packets

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// runsDir holds a folder for each run: its mark, locked as long as the run lives, and its socket. Namespaces carry the name of the folder.
const runsDir = "/run/curfew-packets"

// mark is what a run leaves behind should it be killed.
type mark struct {
	Server string `json:"server"`
	Dir    string `json:"dir"` // removed with the run
}

// begin makes a run's folder and takes its lock. The kernel gives the lock back when the process ends, however it does. The folder gets
// its name when it is locked, so that nobody takes a run that begins for a dead one.
func begin(m mark) (id string, lock *os.File, err error) {
	var b [3]byte
	_, _ = rand.Read(b[:]) // never fails
	id = hex.EncodeToString(b[:])
	young := "." + id
	// Everybody may see that a run is there, and whose; only its owner may join.
	for range 3 {
		if err = os.MkdirAll(filepath.Join(runsDir, young, "private"), 0o755); !errors.Is(err, os.ErrNotExist) {
			break // else another run has just removed the folder of all
		}
	}
	if err == nil {
		err = os.Chmod(filepath.Join(runsDir, young, "private"), 0o700)
	}
	if err != nil {
		return "", nil, err
	}
	if lock, err = take(young); err != nil {
		return "", nil, err
	}
	if err = writeMark(young, m); err == nil {
		err = os.Rename(filepath.Join(runsDir, young), filepath.Join(runsDir, id))
	}
	if err != nil {
		_ = lock.Close()
		_ = os.RemoveAll(filepath.Join(runsDir, young))
		return "", nil, err
	}
	return id, lock, nil
}

func socketOf(id string) string { return filepath.Join(runsDir, id, "private", "socket") }

func take(id string) (*os.File, error) {
	f, err := os.OpenFile(filepath.Join(runsDir, id, "lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func writeMark(id string, m mark) error {
	b, err := json.Marshal(m)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(runsDir, id, "mark.json"), b, 0o644)
}

func readMark(id string) (m mark, err error) {
	b, err := os.ReadFile(filepath.Join(runsDir, id, "mark.json"))
	if err == nil {
		err = json.Unmarshal(b, &m)
	}
	return m, err
}

// spacesOf are the namespaces that carry a run's id.
func spacesOf(id string) []string {
	entries, _ := os.ReadDir("/run/netns")
	var out []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "curfew-"+id+"-") {
			out = append(out, e.Name())
		}
	}
	return out
}

// end removes all that carries the run's id.
func end(ctx context.Context, id string) error {
	var errs []error
	for _, s := range spacesOf(id) {
		errs = append(errs, removeSpace(ctx, s))
	}
	if err := errors.Join(errs...); err != nil {
		return err // the mark stays, for the next start
	}
	if m, err := readMark(id); err == nil && m.Dir != "" && strings.HasSuffix(m.Dir, "packets-"+id) {
		errs = append(errs, os.RemoveAll(m.Dir))
	}
	errs = append(errs, os.RemoveAll(filepath.Join(runsDir, id)))
	_ = os.Remove(runsDir) // when it was the last
	return errors.Join(errs...)
}

// Clean removes what runs that were killed have left: what carries the id of a run whose lock is free. It returns their ids. Start calls it.
func Clean(ctx context.Context) (removed []string, err error) {
	if err := Missing(); err != nil {
		return nil, err
	}
	entries, _ := os.ReadDir(runsDir)
	var errs []error
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), ".") {
			continue // it begins
		}
		lock, err := take(e.Name())
		if err != nil {
			continue // it lives
		}
		if err := end(ctx, e.Name()); err != nil {
			errs = append(errs, err)
		} else {
			removed = append(removed, e.Name())
		}
		_ = lock.Close()
	}
	return removed, errors.Join(errs...)
}

// Peer is a run in another process of this machine.
type Peer struct {
	Run string
	hc  *http.Client
}

// Find returns the living run whose simulator serves a Curfew server, by the server's URL, or by the run's id. Nil without an error means
// that there is none. It needs the rights of the run's owner, which is root.
func Find(ctx context.Context, server, id string) (*Peer, error) {
	entries, err := os.ReadDir(runsDir)
	if err != nil { // no run ever
		entries = nil
	}
	for _, e := range entries {
		m, err := readMark(e.Name())
		if err != nil || !(id != "" && e.Name() == id || id == "" && m.Server != "" && strings.TrimSuffix(m.Server, "/") == strings.TrimSuffix(server, "/")) {
			continue
		}
		socket := socketOf(e.Name())
		p := &Peer{Run: e.Name(), hc: &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{DisableKeepAlives: true,
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return new(net.Dialer).DialContext(ctx, "unix", socket)
			}}}}
		switch _, err := p.Info(ctx); {
		case err == nil:
			return p, nil
		case errors.Is(err, os.ErrPermission):
			return nil, errors.New("real packets flow here (run " + p.Run + "), and joining them needs root")
		}
	}
	if id != "" {
		return nil, fmt.Errorf("no run %s of real packets is there", id)
	}
	return nil, nil
}

func (p *Peer) get(ctx context.Context, path string, into any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://packets"+path, nil)
	if err != nil {
		return err
	}
	resp, err := p.hc.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		var e struct{ Error string }
		_ = json.NewDecoder(resp.Body).Decode(&e)
		return fmt.Errorf("packets of run %s: %s", p.Run, e.Error)
	}
	return json.NewDecoder(resp.Body).Decode(into)
}

// Info is World.Info.
func (p *Peer) Info(ctx context.Context) (i Info, err error) {
	err = p.get(ctx, "/info", &i)
	return i, err
}

// Client is World.Client.
func (p *Peer) Client(ctx context.Context, a netip.Addr) (c Access, err error) {
	err = p.get(ctx, "/client?address="+url.QueryEscape(a.String()), &c)
	return c, err
}

// serve answers other processes of this user on the run's socket.
func (w *World) serve() error {
	l, err := net.Listen("unix", socketOf(w.id))
	if err != nil {
		return err
	}
	answer := func(rw http.ResponseWriter, v any, err error) {
		rw.Header().Set("Content-Type", "application/json")
		if err != nil {
			rw.WriteHeader(http.StatusBadRequest)
			v = map[string]string{"error": err.Error()}
		}
		_ = json.NewEncoder(rw).Encode(v)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /info", func(rw http.ResponseWriter, r *http.Request) { answer(rw, w.Info(), nil) })
	mux.HandleFunc("GET /client", func(rw http.ResponseWriter, r *http.Request) {
		a, err := netip.ParseAddr(r.URL.Query().Get("address"))
		if err != nil {
			answer(rw, nil, err)
			return
		}
		c, err := w.Client(r.Context(), a)
		answer(rw, c, err)
	})
	w.srv = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = w.srv.Serve(l) }()
	return nil
}

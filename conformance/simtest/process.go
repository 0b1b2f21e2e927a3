// Package simtest starts what the conformance tests talk to, as processes of their own: the simulator alone, or the whole product on
// it. It keeps the traffic and the transcripts.
package simtest

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"
)

// What the simulator's only account signs in with; "curfew sim --json" prints the same. They are public.
const (
	Tenant       = "11111111-1111-1111-1111-111111111111"
	ClientID     = "77777777-7777-7777-7777-777777777777"
	ClientSecret = "simulated-secret"
)

// The demo estate's subscriptions.
const (
	Shop = "5a0e3c1d-1f0b-4d52-9c3e-6b1f0a7d2e01"
	Lab  = "c2d94b77-83a5-4f7e-a0d6-2e9a5b8f4c02"
)

// root is the folder of the main module, seen from the tests' folders (conformance/x).
func root(t testing.TB) string {
	t.Helper()
	dir, err := filepath.Abs(filepath.Join("..", ".."))
	if err != nil {
		t.Fatal(err)
	}
	return dir
}

// Folder is the path of a folder of the conformance module.
func Folder(t testing.TB, name string) string { return filepath.Join(root(t), "conformance", name) }

var built struct {
	sync.Once
	path string
	err  error
}

// Program is the binary that CURFEW_BIN names, or one built from the checkout.
func Program(t testing.TB) string {
	t.Helper()
	if bin := os.Getenv("CURFEW_BIN"); bin != "" {
		return bin
	}
	dir := root(t)
	built.Do(func() {
		tmp, err := os.MkdirTemp("", "curfew-conformance-")
		if err != nil {
			built.err = err
			return
		}
		built.path = filepath.Join(tmp, "curfew")
		cmd := exec.Command("go", "build", "-C", dir, "-o", built.path, "./cmd/curfew")
		if out, err := cmd.CombinedOutput(); err != nil {
			built.err = fmt.Errorf("building curfew: %w\n%s", err, out)
		}
	})
	if built.err != nil {
		t.Fatal(built.err)
	}
	return built.path
}

// Main runs the tests and removes the binary that Program built.
func Main(m *testing.M) {
	code := m.Run()
	if built.path != "" {
		_ = os.RemoveAll(filepath.Dir(built.path))
	}
	os.Exit(code)
}

// Azure is a simulated Azure that listens.
type Azure struct {
	URL string // https://127.0.0.1:port
	CA  string // file of the authority that signed its certificate

	t      testing.TB
	client *http.Client
}

// Sim starts "curfew sim" with the demo's estate; it ends with the test.
func Sim(t testing.TB) *Azure {
	t.Helper()
	v := Start(t, "sim", "--listen", "127.0.0.1:0", "--json")
	if v["tenant"] != Tenant || v["client_id"] != ClientID || v["client_secret"] != ClientSecret {
		t.Fatalf("the simulator's account is another one: %v", v)
	}
	return newAzure(t, v["azure"], v["ca"])
}

// Demo is the whole product on a simulated Azure.
type Demo struct {
	*Azure
	server string
}

// StartDemo starts "curfew demo"; it ends with the test.
func StartDemo(t testing.TB) *Demo {
	t.Helper()
	v := Start(t, "demo", "--listen", "127.0.0.1:0", "--azure-listen", "127.0.0.1:0", "--json")
	return &Demo{Azure: newAzure(t, v["azure"], v["ca"]), server: v["server"]}
}

// Curfew runs a command as one of the demo's accounts and returns its stdout. Any other exit code than 0 fails the test.
func (d *Demo) Curfew(account string, args ...string) string {
	d.t.Helper()
	cmd := exec.Command(Program(d.t), append([]string{"--server", d.server, "--as", account}, args...)...)
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	d.t.Logf("curfew --as %s %s", account, strings.Join(args, " "))
	if err != nil {
		d.t.Fatalf("curfew --as %s %s: %v\n%s%s", account, strings.Join(args, " "), err, out, stderr.String())
	}
	return string(out)
}

// Start runs the program and waits for its line of --json. What it leaves running is interrupted at the end of the test, and has to
// end well.
func Start(t testing.TB, args ...string) map[string]string {
	t.Helper()
	cmd := exec.Command(Program(t), args...)
	cmd.Env = append(os.Environ(), "TZ=UTC")
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	first := make(chan string, 1)
	ended := make(chan error, 1)
	go func() {
		r := bufio.NewReader(out)
		line, _ := r.ReadString('\n')
		first <- line
		_, _ = io.Copy(io.Discard, r)
		ended <- cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Signal(os.Interrupt)
		select {
		case err := <-ended:
			if err != nil || strings.Contains(stderr.String(), "panic") {
				t.Errorf("curfew %s ended with %v\n%s", args[0], err, stderr.String())
			}
		case <-time.After(20 * time.Second):
			_ = cmd.Process.Kill()
			<-ended
			t.Errorf("curfew %s did not end when it was interrupted\n%s", args[0], stderr.String())
		}
	})
	select {
	case line := <-first:
		var values map[string]any
		if err := json.Unmarshal([]byte(line), &values); err != nil {
			t.Fatalf("curfew %s printed %q", args[0], line)
		}
		texts := map[string]string{}
		for k, v := range values {
			texts[k], _ = v.(string)
		}
		return texts
	case <-time.After(time.Minute):
		t.Fatalf("curfew %s is not ready", args[0])
		return nil
	}
}

func newAzure(t testing.TB, url, ca string) *Azure {
	return &Azure{URL: url, CA: ca, t: t, client: HTTPClient(t, ca, nil)}
}

// HTTPClient trusts the authority in the file and nothing else. Its requests pass through the recorder, if there is one.
func HTTPClient(t testing.TB, caFile string, rec *Recorder) *http.Client {
	t.Helper()
	pem, err := os.ReadFile(caFile)
	if err != nil {
		t.Fatal(err)
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		t.Fatalf("no certificate in %s", caFile)
	}
	tr := http.DefaultTransport.(*http.Transport).Clone()
	tr.Proxy = nil
	tr.TLSClientConfig = &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}
	t.Cleanup(tr.CloseIdleConnections)
	if rec == nil {
		return &http.Client{Transport: tr, Timeout: time.Minute}
	}
	return &http.Client{Transport: rec.Transport(tr), Timeout: time.Minute}
}

// Control calls the simulator's control API ("settings", "clock", "faults").
func (a *Azure) Control(method, path, body string) []byte {
	a.t.Helper()
	req, err := http.NewRequest(method, a.URL+"/_sim/"+path, strings.NewReader(body))
	if err != nil {
		a.t.Fatal(err)
	}
	res, err := a.client.Do(req)
	if err != nil {
		a.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != http.StatusOK {
		a.t.Fatalf("%s %s: %s %s", method, path, res.Status, errors.Join(err, errors.New(string(b))))
	}
	return b
}

// Settle makes operations take this long: "0s" for clients that would sleep half a minute between two looks.
func (a *Azure) Settle(delay string) {
	a.t.Helper()
	a.Control(http.MethodPost, "settings", fmt.Sprintf(`{"operationDelay":%q}`, delay))
}

// Artefacts is a folder for what a run leaves behind: below the one that CURFEW_ARTEFACTS names, or a temporary one.
func Artefacts(t testing.TB, name string) string {
	t.Helper()
	base := os.Getenv("CURFEW_ARTEFACTS")
	if base == "" {
		base = t.TempDir()
	}
	dir, err := filepath.Abs(filepath.Join(base, name))
	if err != nil {
		t.Fatal(err)
	}
	// What an earlier run left would pass for this one's.
	if err := os.RemoveAll(dir); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

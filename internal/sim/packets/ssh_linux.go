package packets

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// signer is a running sshd.
type signer struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// key makes a key pair, once, and returns the public half.
func (w *World) key(ctx context.Context, name string) (string, error) {
	file := filepath.Join(w.dir, name)
	if _, err := os.Stat(file); err != nil {
		if _, err := run(ctx, "", "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "curfew-"+w.id, "-f", file); err != nil {
			return "", err
		}
	}
	b, err := os.ReadFile(file + ".pub")
	return strings.TrimSpace(string(b)), err
}

// signIn starts an sshd in a machine. It shares nothing with the machine that it runs on but its file system and its users: who signs in
// is root there, so only root can read the key.
func (w *World) signIn(ctx context.Context, s *space) (*signer, error) {
	short := s.name[strings.LastIndex(s.name, "-vm-")+1:]
	if _, err := w.key(ctx, short); err != nil {
		return nil, err
	}
	at := func(name string) string { return filepath.Join(w.dir, name) }
	conf := fmt.Sprintf("Port 22\nHostKey %s\nAuthorizedKeysFile %s\nPidFile none\nUsePAM no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n"+
		"StrictModes no\nPermitRootLogin prohibit-password\nPrintMotd no\nPrintLastLog no\nUseDNS no\nSubsystem sftp internal-sftp\n", at(short), at("client.pub"))
	if err := os.WriteFile(at(short+".conf"), []byte(conf), 0o600); err != nil {
		return nil, err
	}
	sshd, err := lookPath("sshd")
	if err != nil {
		return nil, err
	}
	ipPath, err := lookPath("ip")
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll("/run/sshd", 0o755); err != nil { // sshd insists on it
		return nil, err
	}
	cmd := exec.Command(ipPath, "netns", "exec", s.name, "/bin/sh", "-c", `echo "$1" >/proc/sys/kernel/hostname && exec "$2" -D -f "$3" -E "$4"`, "sh",
		s.sshd.host, sshd, at(short+".conf"), at(short+".log"))
	// A host name of its own, so that it is the machine that answers hostname.
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUTS, Setpgid: true}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("starting sshd in %s: %w", s.name, err)
	}
	g := &signer{cmd: cmd, done: make(chan struct{})}
	go func() { _ = cmd.Wait(); close(g.done) }()
	for range 500 {
		if listens(cmd.Process.Pid) {
			return g, nil
		}
		select {
		case <-g.done:
			log, _ := os.ReadFile(at(short + ".log"))
			return nil, fmt.Errorf("sshd in %s ended: %s", s.name, strings.TrimSpace(string(log)))
		case <-ctx.Done():
			g.stop()
			return nil, ctx.Err()
		case <-time.After(10 * time.Millisecond):
		}
	}
	g.stop()
	return nil, fmt.Errorf("sshd in %s does not listen", s.name)
}

// listens tells whether something listens on port 22 in the namespace of a process.
func listens(pid int) bool {
	b, _ := os.ReadFile(fmt.Sprintf("/proc/%d/net/tcp", pid))
	for line := range strings.Lines(string(b)) {
		if f := strings.Fields(line); len(f) > 3 && f[1] == "00000000:0016" && f[3] == "0A" {
			// Before ip has entered the namespace, this is the one of the machine that we run on.
			comm, _ := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid))
			return strings.TrimSpace(string(comm)) == "sshd"
		}
	}
	return false
}

func (g *signer) stop() {
	_ = g.cmd.Process.Kill()
	<-g.done
}

// knownHosts writes what ssh checks machines against: each has a key of its own, so that a way that leads to another machine is seen.
func (w *World) knownHosts(p *plan) error {
	var b strings.Builder
	for _, s := range p.spaces {
		if s.sshd == nil {
			continue
		}
		pub, err := os.ReadFile(filepath.Join(w.dir, s.name[strings.LastIndex(s.name, "-vm-")+1:]+".pub"))
		if err != nil {
			return err
		}
		f := strings.Fields(string(pub))
		names := slices.Compact(slices.Sorted(slices.Values(s.sshd.names)))
		fmt.Fprintf(&b, "%s %s %s\n", strings.Join(names, ","), f[0], f[1])
	}
	tmp := filepath.Join(w.dir, "known_hosts.new")
	if err := os.WriteFile(tmp, []byte(b.String()), 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, filepath.Join(w.dir, "known_hosts"))
}

package packets

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// tools by the Debian package that has them.
var tools = [][2]string{{"ip", "iproute2"}, {"ss", "iproute2"}, {"nft", "nftables"}, {"sshd", "openssh-server"}, {"ssh", "openssh-client"}, {"ssh-keygen", "openssh-client"}, {"sh", "dash"}}

// lookPath finds a program also where administrators' programs are and a user's PATH does not lead.
func lookPath(name string) (string, error) {
	if p, err := exec.LookPath(name); err == nil {
		return filepath.Abs(p)
	}
	for _, dir := range []string{"/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin"} {
		if p := filepath.Join(dir, name); unix.Access(p, unix.X_OK) == nil {
			return p, nil
		}
	}
	return "", fmt.Errorf("no program %s", name)
}

// Missing returns what real packets need and is not there, nil when they can flow.
func Missing() error {
	if os.Geteuid() != 0 {
		return errors.New("real packets need root, for network namespaces")
	}
	var names, pkgs []string
	for _, t := range tools {
		if _, err := lookPath(t[0]); err != nil {
			names, pkgs = append(names, t[0]), append(pkgs, t[1])
		}
	}
	if len(names) > 0 {
		return fmt.Errorf("real packets need %s: install %s", strings.Join(names, ", "), strings.Join(pkgs, " "))
	}
	return nil
}

// run runs a program to its end, with what it said in the error.
func run(ctx context.Context, stdin string, name string, args ...string) (string, error) {
	path, err := lookPath(name)
	if err != nil {
		return "", err
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "LC_ALL=C")
	var out, said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &said
	if err := cmd.Run(); err != nil {
		text := strings.TrimSpace(said.String())
		if len(text) > 2000 {
			text = text[:2000] + " …"
		}
		return out.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, text)
	}
	return out.String(), nil
}

// ip runs commands of ip in a namespace ("" is none in particular). With force it goes on after an error and returns none.
func ip(ctx context.Context, namespace string, force bool, lines ...string) error {
	if len(lines) == 0 {
		return nil
	}
	var args []string
	if namespace != "" {
		args = append(args, "-n", namespace)
	}
	if force {
		args = append(args, "-force")
	}
	_, err := run(ctx, strings.Join(lines, "\n")+"\n", "ip", append(args, "-batch", "-")...)
	if force && ctx.Err() == nil {
		return nil
	}
	return err
}

// inside runs a program in a namespace.
func inside(ctx context.Context, namespace, stdin, name string, args ...string) (string, error) {
	path, err := lookPath(name)
	if err != nil {
		return "", err
	}
	return run(ctx, stdin, "ip", append([]string{"netns", "exec", namespace, path}, args...)...)
}

// mac is the address of an interface, the same for the same names.
func mac(namespace, dev string) (a [6]byte) {
	sum := sha256.Sum256([]byte(namespace + " " + dev))
	copy(a[:], sum[:])
	a[0] = a[0]&^1 | 2 // one station, locally given
	return a
}

func macText(a [6]byte) string {
	return fmt.Sprintf("%02x:%02x:%02x:%02x:%02x:%02x", a[0], a[1], a[2], a[3], a[4], a[5])
}

// processes of a namespace.
func processes(ctx context.Context, namespace string) []int {
	out, _ := run(ctx, "", "ip", "netns", "pids", namespace)
	var pids []int
	for f := range strings.FieldsSeq(out) {
		if pid, err := strconv.Atoi(f); err == nil && pid > 1 && pid != os.Getpid() {
			pids = append(pids, pid)
		}
	}
	return pids
}

// removeSpace ends what runs in a namespace and removes it with its interfaces. It may be repeated.
func removeSpace(ctx context.Context, namespace string) error {
	for _, pid := range processes(ctx, namespace) {
		_ = syscall.Kill(pid, syscall.SIGKILL) // gone meanwhile, perhaps
	}
	if _, err := os.Stat("/run/netns/" + namespace); err != nil {
		return nil
	}
	_, err := run(ctx, "", "ip", "netns", "del", namespace)
	return err
}

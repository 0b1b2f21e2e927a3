package cli

import (
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/testkit"
)

func TestSSHArgumentsCannotBecomeAnotherHost(t *testing.T) {
	for _, c := range []struct{ in, options, command string }{
		{"", "", ""},
		{"uptime", "", "uptime"},
		{"-v -i key uptime -a", "-v -i key", "uptime -a"},
		{"-vikey ls", "-vikey", "ls"},
		{"-vL 8080:localhost:80", "-vL 8080:localhost:80", ""},
		{"-o ProxyJump=x -N", "-o ProxyJump=x -N", ""},
		{"-- -rf", "", "-rf"},
		{"-A -- ls", "-A", "ls"},
		{"- x", "", "- x"},
	} {
		o, cmd, err := splitSSH(strings.Fields(c.in))
		if err != nil || strings.Join(o, " ") != c.options || strings.Join(cmd, " ") != c.command {
			t.Errorf("%q: got %q, %q, %v", c.in, o, cmd, err)
		}
	}
	for _, in := range []string{"-p 23", "-p23", "-vp 23", "-i", "-Z x", "--foo", "-ü"} {
		if _, _, err := splitSSH(strings.Fields(in)); access.CodeOf(err) != access.CodeInvalid {
			t.Errorf("%q: got %v, want a refusal", in, err)
		}
	}
	argv := sshArgv("ssh", "203.0.113.5", 22, "admin", []string{"-v"}, []string{"-x", "ls"})
	if want := []string{"ssh", "-p", "22", "-l", "admin", "-v", "--", "203.0.113.5", "-x", "ls"}; !slices.Equal(argv, want) {
		t.Errorf("got %q, want %q", argv, want)
	}
}

func FuzzSplitSSHKeepsEveryArgument(f *testing.F) {
	f.Add("-v", "-i", "key")
	f.Add("--", "-p", "22")
	f.Fuzz(func(t *testing.T, a, b, c string) {
		in := []string{a, b, c}
		o, cmd, err := splitSSH(in)
		if err != nil {
			return
		}
		got := append(slices.Clone(o), cmd...)
		if i := slices.Index(in, "--"); i >= 0 && len(got) == 2 {
			in = slices.Delete(slices.Clone(in), i, i+1)
		}
		if len(got) < 2 || len(got) == 3 && !slices.Equal(got, in) {
			t.Errorf("%q: got %q and %q", in, o, cmd)
		}
	})
}

func TestConnectTo(t *testing.T) {
	from := func(s string) api.Grant { return api.Grant{Source: netip.MustParsePrefix(s)} }
	vm := api.VM{VMRef: api.VMRef{Name: "web-01"}, PrivateIPs: []netip.Addr{netip.MustParseAddr("10.0.0.4")}}
	vm.Connect = []string{"198.51.100.7:50001 → 22", "203.0.113.5:3389"}
	if h, p, err := connectTo(from("203.0.113.9/32"), vm, 22); err != nil || h != "198.51.100.7" || p != 50001 {
		t.Errorf("load balancer: got %s:%d, %v", h, p, err)
	}
	if h, p, err := connectTo(from("203.0.113.9/32"), vm, 3389); err != nil || h != "203.0.113.5" || p != 3389 {
		t.Errorf("public: got %s:%d, %v", h, p, err)
	}
	if h, p, err := connectTo(from("10.1.0.9/32"), vm, 22); err != nil || h != "10.0.0.4" || p != 22 {
		t.Errorf("from inside: got %s:%d, %v", h, p, err)
	}
	if h, p, err := connectTo(from("203.0.113.9/32"), vm, 2222); err != nil || h != "203.0.113.5" || p != 2222 {
		t.Errorf("another port of a public address: got %s:%d, %v", h, p, err)
	}
	vm.Connect = vm.Connect[:1]
	if _, _, err := connectTo(from("203.0.113.9/32"), vm, 2222); access.CodeOf(err) != access.CodeConflict {
		t.Errorf("no way: got %v", err)
	}
	vm.Connect = []string{"-oProxyCommand=x:22", "evil.example.com:22", "[fe80::1%eth0]:22"}
	if h, _, err := connectTo(from("203.0.113.9/32"), vm, 22); err == nil {
		t.Errorf("a host that is no address was taken: %s", h)
	}
}

func TestQuotedCommandReadsBack(t *testing.T) {
	sh, err := exec.LookPath("sh")
	testkit.Require(t, "sh", err == nil)
	argv := []string{"printf", "%s\\n", "a b", "it's", "$HOME", "", "`x`", "-v", "ü"}
	out, err := exec.Command(sh, "-c", quoteArgv(argv)).Output()
	if want := strings.Join(argv[2:], "\n") + "\n"; err != nil || string(out) != want {
		t.Errorf("got %q, %v, want %q", out, err, want)
	}
}

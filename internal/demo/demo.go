package demo

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/app"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/policy"
)

// Installation is the demo's name in the rules that it writes.
const Installation = "demo"

// Account is somebody whom anybody may act as.
type Account struct {
	Name   string
	Roles  []access.Role
	Groups []string // as the issuer tells them, and the policy uses them
	MyIP   netip.Addr
}

// Accounts of the demo, named after their roles.
func Accounts() []Account {
	ip := netip.MustParseAddr
	return []Account{
		{"requester", []access.Role{access.Requester}, []string{"sre"}, ip("203.0.113.9")},
		{"requester-2", []access.Role{access.Requester}, []string{"web"}, ip("203.0.113.10")},
		{"approver", []access.Role{access.Approver}, []string{"sre", "dba"}, ip("203.0.113.11")},
		{"approver-2", []access.Role{access.Approver}, []string{"dba"}, ip("203.0.113.12")},
		{"admin", []access.Role{access.Admin}, []string{"platform"}, ip("203.0.113.13")},
		{"auditor", []access.Role{access.Auditor}, nil, ip("203.0.113.14")},
		{"stranger", []access.Role{}, nil, ip("203.0.113.15")},
	}
}

// Policy of the demo: everybody may ask for up to eight hours, and one other person approves; the database takes one of
// the group sre and one of the group dba, and two hours at most; in an emergency the group sre opens at once. Who is in a group the issuer says.
func Policy() policy.Document {
	return policy.Document{
		Groups: map[string]policy.Group{"sre": {Claims: []string{"sre"}}, "dba": {Claims: []string{"dba"}}},
		Rules: []policy.Rule{
			{Name: "everyone", MaxDuration: access.Duration(8 * time.Hour), MaxTotal: access.Duration(12 * time.Hour), Approvals: 1,
				BreakGlass: &policy.BreakGlass{Requesters: []string{"group:sre"}, MaxDuration: access.Duration(30 * time.Minute)}},
			{Name: "data", VMs: []string{"db-*"}, MaxDuration: access.Duration(2 * time.Hour),
				Steps: []policy.Step{{Name: "on call", Approvers: []string{"group:sre"}}, {Name: "data", Approvers: []string{"group:dba"}}}},
		}}
}

// named is a policy for people whom no issuer says anything of: its groups list the demo's accounts by name.
func named(p policy.Document) policy.Document {
	for name, g := range p.Groups {
		for _, a := range Accounts() {
			if slices.Contains(a.Groups, name) {
				g.Members = append(g.Members, a.Name)
			}
		}
		p.Groups[name] = g
	}
	return p
}

// Options of Run.
type Options struct {
	Listen, AzureListen string
	IssuerListen        string // "": DefaultIssuerListen, or any port where Listen takes any
	SlackListen         string // likewise
	Dir                 string // "": a temporary one, removed at the end
	Packets             bool   // machines are network namespaces
	JSON                bool   // one line on Out when ready, instead of words
	Program             string // how commands are shown
	Version             string
	Out, Err            io.Writer
	Clock               clock.Clock
	Log                 *slog.Logger // nil: warnings go to Err
}

// ready is the line of --json.
type ready struct {
	Server   string   `json:"server"`
	Azure    string   `json:"azure"`
	Issuer   string   `json:"issuer"` // its front page and control API
	Slack    string   `json:"slack"`  // the page of the stand-in
	CA       string   `json:"ca"`
	Dir      string   `json:"dir"`
	Accounts []string `json:"accounts"`
	Packets  string   `json:"packets,omitempty"` // the run whose namespaces carry them
}

// Run runs the demo until ctx ends, which is no error.
func Run(ctx context.Context, o Options) (err error) {
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(o.Err, &slog.HandlerOptions{Level: slog.LevelError}))
	}
	dir, remove, err := directory(o.Dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()

	l, err := loopback(ctx, o.Listen, "listen")
	if err != nil {
		return err
	}
	defer l.Close()
	unlock, err := lock(dir)
	if err != nil {
		return err
	}
	defer unlock()
	first, err := estate("")
	if err != nil {
		return err
	}
	az, err := startAzure(ctx, o.AzureListen, "azure-listen", dir, first, o.Clock, o.Log)
	if err != nil {
		return err
	}
	defer az.close()
	net, err := carry(ctx, o.Packets, az, dir, o.Log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, net.close()) }()
	iss, err := startIssuer(ctx, beside(o.IssuerListen, o.Listen, DefaultIssuerListen), dir, "http://"+l.Addr().String(), o.Clock, o.Log)
	if err != nil {
		return err
	}
	defer iss.close()
	chat, told, err := startSlack(ctx, beside(o.SlackListen, o.Listen, DefaultSlackListen), dir, o.Clock)
	if err != nil {
		return err
	}
	defer chat.Close()
	chat.Target = "http://" + l.Addr().String() + "/v1/slack/actions"
	client, err := az.client(o.Clock, o.Log)
	if err != nil {
		return err
	}
	cfg := app.Config{Installation: Installation, Database: filepath.Join(dir, "curfew.db"), Policy: Policy(), Version: o.Version,
		InventoryAge: 5 * time.Second, ScanEvery: 10 * time.Minute, Cloud: "simulated", Demo: map[string][]access.Role{}, MyIPs: map[string]netip.Addr{},
		DemoGroups: map[string][]string{}, DemoSubjects: map[string]string{}, SignIn: iss.signIn(), Notify: told}
	line := ready{Azure: az.URL, Issuer: iss.URL, Slack: chat.Page(), CA: az.CA, Dir: dir}
	for _, a := range Accounts() {
		cfg.Demo[a.Name], cfg.MyIPs[a.Name], cfg.DemoGroups[a.Name] = a.Roles, a.MyIP, a.Groups
		cfg.DemoSubjects[a.Name] = iss.issuer.ObjectID(a.Name)
		line.Accounts = append(line.Accounts, a.Name)
	}
	a, err := app.Start(ctx, cfg, app.Deps{Azure: client, Clock: o.Clock, Log: o.Log, Listener: l})
	if err != nil {
		return err
	}
	line.Server = a.URL
	if line.Packets, err = net.serves(a.URL); err != nil {
		a.Stop()
		return errors.Join(err, a.Wait())
	}
	wait, cancel := context.WithTimeout(ctx, 30*time.Second)
	err = a.Ready(wait)
	cancel()
	if err != nil && ctx.Err() == nil {
		a.Stop()
		return errors.Join(err, a.Wait())
	}
	if ctx.Err() == nil {
		if o.JSON {
			b, err := json.Marshal(line)
			if err == nil {
				_, err = o.Out.Write(append(b, '\n'))
			}
			if err != nil {
				a.Stop()
				return errors.Join(err, a.Wait())
			}
		} else {
			fmt.Fprint(o.Out, welcome(o, line))
		}
	}
	err = a.Wait()
	if !o.JSON {
		fmt.Fprintln(o.Err, ending(o))
	}
	return err
}

// directory returns the one that was named, made if need be, or a temporary one; and what removes it at the end.
func directory(named string) (string, func() error, error) {
	if named == "" {
		dir, err := os.MkdirTemp("", "curfew-demo-")
		if err != nil {
			return "", nil, access.Errorf(access.CodeUnavailable, "no temporary directory could be made: %v", err).WithHint("name one with --dir")
		}
		return dir, func() error { return os.RemoveAll(dir) }, nil
	}
	dir, err := filepath.Abs(named)
	if err == nil {
		err = os.MkdirAll(dir, 0o700)
	}
	if err != nil {
		return "", nil, access.Errorf(access.CodeUnavailable, "the directory %s cannot be used: %v", named, err).WithHint("name another one with --dir")
	}
	return dir, func() error { return nil }, nil
}

// quoteDir is a directory as a shell reads it.
func quoteDir(s string) string {
	if strings.ContainsFunc(s, func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("-_./:@+,%", r))
	}) {
		return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
	}
	return s
}

func ending(o Options) string {
	if o.Dir == "" {
		return "the demo has ended; nothing is left behind"
	}
	return "the demo has ended; go on with: " + o.Program + " demo --dir " + quoteDir(o.Dir)
}

// welcome says what this is, what is in the estate, and what to try.
func welcome(o Options, l ready) string {
	run := o.Program
	if l.Server != "http://127.0.0.1:7447" {
		run += " --server " + l.Server
	}
	var b strings.Builder
	p := func(format string, args ...any) { fmt.Fprintf(&b, format+"\n", args...) }
	p("Curfew on a simulated Azure. This is NOT for production: anybody on this machine may act as any account.")
	p("")
	p("  server   %s", l.Server)
	p("  azure    %s  (simulated; GET /_sim/ describes faults, time and the outside hand)", l.Azure)
	p("  issuer   %s  (people sign in with it, without a password: curfew login)", l.Issuer)
	p("  slack    %s  (a stand-in: press its buttons as whom you like)", l.Slack)
	p("  ca       %s", l.CA)
	p("  state    %s%s", l.Dir, map[bool]string{true: "  (removed at the end)", false: "  (kept)"}[o.Dir == ""])
	p("  accounts %s", strings.Join(l.Accounts, ", "))
	p("")
	if l.Packets != "" {
		p("Packets are real: each machine is a network namespace (ip netns list; %s). As root, ssh gets in when the rules let it.", l.Packets)
		p("")
	}
	p("Machines, each in a situation of its own:")
	for _, s := range situations {
		p("  %-14s %s", s[0], s[1])
	}
	p("")
	p("Try, in another terminal:")
	p("")
	p("  # what reaches whom")
	p("  %s --as admin vm list", run)
	p("  # what is not protected, and what the Internet can really reach")
	p("  %s --as admin scan", run)
	p("  # shut SSH on web-01: the plan is shown first")
	p("  %s --as admin protect web-01", run)
	p("  # ask for it; this waits for an approver")
	p("  %s --as requester ssh web-01 --for 30m --reason \"INC-4711 disk full\"", run)
	p("  # in a third terminal: decide, for less if you like")
	p("  %s --as approver request list --state pending", run)
	p("  %s --as approver approve ID --for 10m", run)
	p("  # or in Slack: open %s?as=approver, press, and make that user yours with the code that it shows", l.Slack)
	p("  %s --as approver link slack CODE", run)
	p("  # the database takes two, of two groups; in an emergency the glass is broken, loudly")
	p("  %s --as requester plan request db-01 --reason \"INC-4711\"", run)
	p("  %s --as requester break-glass web-01 --reason \"INC-4711 nobody answers\"", run)
	p("  %s --as approver break-glass list", run)
	p("  # what is open, for whom, how long; shut it early")
	p("  %s --as requester grant list", run)
	p("  %s --as requester grant close ID", run)
	p("  # what happened, and the proof that nobody edited the record")
	p("  %s --as auditor audit list", run)
	p("  %s --as auditor audit verify", run)
	p("  # sign in as a person does, in a browser, instead of --as; then look, and out")
	p("  %s login", run)
	p("  %s whoami", run)
	p("  %s logout", run)
	p("  # disable an account at the issuer: who is signed in with it is out within five minutes")
	p("  curl -d '{\"name\":\"requester\",\"disabled\":true}' %s/_dev/accounts", l.Issuer)
	p("  # refusals that say what to do next")
	p("  %s --as admin protect web-03", run)
	p("  %s --as admin vm show build-01", run)
	p("  %s --as stranger request create web-01 --reason x", run)
	p("")
	p("  Complete commands and names in bash: source <(%s completion bash)", o.Program)
	p("  Ctrl-C ends the demo%s.", map[bool]string{true: " and leaves nothing behind", false: "; its state stays"}[o.Dir == ""])
	return b.String()
}

// situations are those of the estate, in the order in which they are worth a look.
var situations = [][2]string{
	{"web-01", "NIC NSG, SSH open to the Internet; can be protected as it stands"},
	{"web-02", "somebody's early allow of SSH, with room before it"},
	{"web-03", "an allow at priority 100: nothing goes before it, so it must be replaced with consent"},
	{"orders-01, -02", "one NSG shared by two machines: a grant on one does not open the other"},
	{"db-01", "NSG on the subnet alone; two approvals, two hours at most"},
	{"app-01", "NSGs on subnet and NIC: both are opened, both are shut"},
	{"api-01", "rules by application security group"},
	{"search-01", "IPv4 and IPv6"},
	{"reports-01", "SSH through a load balancer's NAT rule, port 50001"},
	{"payroll", "Windows, RDP open to the Internet"},
	{"fax-gateway", "no NSG at all: needs --create-nsg"},
	{"build-01", "the name exists twice: lab/build-01, back-office/build-01"},
	{"batch-01", "second subscription; a security admin rule denies SSH before any NSG"},
	{"sensor-hub", "a security admin rule always allows a partner: cannot be protected from it"},
	{"aks-…", "owned by AKS; render: a scale set"},
}

package config_test

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/testkit"
)

const least = "installation: test\nazure:\n  subscriptions: [aaaaaaaa-0000-0000-0000-000000000001]\n"

func load(text string) (config.Config, error) {
	return config.Load(config.Sources{File: "curfew.yaml", Read: func(string) ([]byte, error) { return []byte(text), nil }})
}

func message(t *testing.T, err error) string {
	t.Helper()
	var e *access.Error
	if !errors.As(err, &e) || e.Code != access.CodeInvalid {
		t.Fatalf("got error %v, want code invalid", err)
	}
	return e.Message
}

func TestTheExampleIsReadAndNamesEveryKey(t *testing.T) {
	c, err := load(config.Example)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) > 0 {
		t.Errorf("warnings: %v", c.Warnings)
	}
	for _, key := range config.Keys() {
		name := key[strings.LastIndex(key, ".")+1:]
		if !strings.Contains(config.Example, name+":") {
			t.Errorf("the example does not name %s", key)
		}
	}
	// What is commented out must be right as well.
	var all strings.Builder
	for line := range strings.Lines(config.Example) {
		if i := strings.Index(line, "# "); i >= 0 && strings.TrimSpace(line[:i]) == "" {
			rest := line[i+2:]
			if name, _, ok := strings.Cut(strings.TrimPrefix(strings.TrimSpace(rest), "- "), ":"); ok && !strings.Contains(name, " ") && !strings.Contains(rest, "openssl") && strings.TrimSpace(rest) != "Of a custom cloud:" {
				line = line[:i] + rest
			}
		}
		all.WriteString(line)
	}
	text := strings.NewReplacer("cloud: public  ", "cloud: custom  ", "kind: managed-identity", "kind: client-secret", "token_file: /var/run", "# token_file: /var/run").Replace(all.String())
	c, err = load(text)
	if err != nil {
		t.Fatalf("with everything switched on: %v", err)
	}
	if len(c.Notify.Channels) == 0 || c.Notify.Channels[0].AllowPrivate == nil || c.TLS.Key == "" || c.Azure.Authority == "" || c.Policy.Rules[1].WidestIPv6 != 56 || len(c.TrustedProxies) != 1 || c.Policy.Rules[1].Ports[1].Last != 8010 {
		t.Errorf("got %+v", c)
	}
}

func TestDefaultsAreThoseOfTheReference(t *testing.T) {
	c, err := load(least)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:7447" || c.SweepInterval != access.Duration(30*time.Second) || c.Band != (config.Band{First: 300, Last: 1299}) ||
		c.Azure.Cloud != "public" || c.Log.SlogLevel() != slog.LevelInfo || len(c.Warnings) != 1 {
		t.Errorf("got %+v", c)
	}
	for _, line := range []string{"| `listen` | text | `127.0.0.1:7447` | `CURFEW_LISTEN` |", "| `sweep_interval` | duration | `30s` |", "| `band.first` | number | `300` |",
		"| `request_expiry` | duration | `24h` |", "| `idempotency_retention` | duration | `24h` |", "| `azure.cloud` | text | `public` |", "| `log.level` | text | `info` |",
		"| `policy.rules[].approvals` | number |", "| `people[].roles` | list of texts |"} {
		if !strings.Contains(config.Reference(), line) {
			t.Errorf("the reference lacks %s", line)
		}
	}
	for line := range strings.Lines(config.Reference()) {
		if strings.HasSuffix(strings.TrimSpace(line), "|  |") {
			t.Errorf("no meaning: %s", line)
		}
	}
}

// What proves the log does not lie where the log lies.
func TestSigning(t *testing.T) {
	c, err := load(least + "audit: {signing_key_file: /etc/curfew/audit.key, checkpoint_file: /var/lib/curfew-checkpoints/log}\n")
	if err != nil || c.Audit.CheckpointInterval != access.Duration(time.Hour) || c.Audit.CheckpointFile == "" {
		t.Errorf("got %+v, %v", c.Audit, err)
	}
	for text, want := range map[string]string{
		"{checkpoint_file: /srv/log}":                                              "curfew.yaml:4: audit.checkpoint_file needs audit.signing_key_file",
		"{signing_key_file: /var/lib/curfew/audit.key}":                            "audit.signing_key_file is /var/lib/curfew/audit.key, within data_dir",
		"{signing_key_file: /k, checkpoint_file: /var/lib/curfew/../curfew/a/log}": "audit.checkpoint_file is /var/lib/curfew/../curfew/a/log, within data_dir",
		"{signing_key_file: /k, checkpoint_file: /var/lib/curfew}":                 "audit.checkpoint_file is /var/lib/curfew, within data_dir",
		"{signing_key_file: /k, checkpoint_interval: 1s}":                          "audit.checkpoint_interval is 1s",
		"{signing_key: x}": "there is no key",
	} {
		if _, err := load(least + "audit: " + text + "\n"); !strings.Contains(message(t, err), want) {
			t.Errorf("%s: got %v, want %q", text, err, want)
		}
	}
}

// The table and the example in the documentation are those of the program. CURFEW_UPDATE=1 writes them.
func TestDocumentation(t *testing.T) {
	file := filepath.Join(testkit.Module(t), "docs", "configuration.md")
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	got, want := string(b), string(b)
	for name, text := range map[string]string{"reference": config.Reference(), "example": "```yaml\n" + config.Example + "```\n"} {
		begin, end := "<!-- "+name+" -->\n", "<!-- end of "+name+" -->\n"
		i, j := strings.Index(want, begin), strings.Index(want, end)
		if i < 0 || j < i {
			t.Fatalf("docs/configuration.md has no place for the %s", name)
		}
		want = want[:i+len(begin)] + text + want[j:]
	}
	if got == want {
		return
	}
	if os.Getenv("CURFEW_UPDATE") == "1" {
		if err := os.WriteFile(file, []byte(want), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	t.Error("docs/configuration.md is not what the program reads; run this test with CURFEW_UPDATE=1")
}

func TestOrderIsFlagEnvironmentFileDefault(t *testing.T) {
	env := map[string]string{"CURFEW_LISTEN": "127.0.0.1:2", "CURFEW_LOG_LEVEL": "warn"}
	s := config.Sources{File: "f", Read: func(string) ([]byte, error) {
		return []byte(least + "listen: 127.0.0.1:1\ndata_dir: /file\nlog: {level: debug}\n"), nil
	},
		Getenv: func(k string) string { return env[k] }, Flags: map[string]string{"listen": "127.0.0.1:3"}}
	c, err := config.Load(s)
	if err != nil {
		t.Fatal(err)
	}
	if c.Listen != "127.0.0.1:3" || c.Log.Level != "warn" || c.DataDir != "/file" || c.Log.Format != "text" {
		t.Errorf("got %s %s %s %s", c.Listen, c.Log.Level, c.DataDir, c.Log.Format)
	}
	// A fault is told where it was made.
	env["CURFEW_LOG_LEVEL"] = "loud"
	s.Flags["listen"] = "nowhere"
	_, err = config.Load(s)
	if m := message(t, err); !strings.Contains(m, `CURFEW_LOG_LEVEL: log.level is "loud"`) || !strings.Contains(m, `--listen: listen is "nowhere"`) {
		t.Errorf("got %s", m)
	}
	s.Flags = map[string]string{"people": "x"}
	if _, err = config.Load(s); err == nil {
		t.Error("a flag that does not exist is taken")
	}
}

func TestEveryFaultIsReportedAtOnceWithItsLine(t *testing.T) {
	_, err := load(`installation: Te
listen: nowhere
tls: {cert: a.pem}
trusted_proxies: [0.0.0.0/0, 10.0.0.1/8]
azure:
  cloud: mars
  endpoint: https://x
  subscriptions: [one, AAAAAAAA-0000-0000-0000-000000000001, aaaaaaaa-0000-0000-0000-000000000001]
  credential: {kind: magic}
band: {first: 90, last: 5000}
people:
  - name: Alice
    roles: [owner]
    token_sha256: abc
  - name: alice
    token_sha256: 2bd806c97f0e00af1a1fc3328fa763a9269723c8db8fac4f93af71db186d6e90
  - name: curfew
    roles: [admin]
    token_sha256: 2BD806C97F0E00AF1A1FC3328FA763A9269723C8DB8FAC4F93AF71DB186D6E90
policy:
  rules:
    - name: a
      max_duration: 25h
    - name: a
      vms: ["[x"]
      approvals: 3
      approvers: [bob]
request_expiry: 1m
sweep_interval: 31s
log: {level: loud, format: xml}
colour: red
`)
	m := message(t, err)
	for _, want := range []string{
		"curfew.yaml:1: installation", "curfew.yaml:2: listen", "curfew.yaml:3: tls needs both", "curfew.yaml:4: trusted_proxies[0] is 0.0.0.0/0", "curfew.yaml:4: trusted_proxies[1]",
		`curfew.yaml:6: azure.cloud is "mars"`, "curfew.yaml:7: azure.endpoint", "curfew.yaml:8: azure.subscriptions[0]", "curfew.yaml:8: azure.subscriptions[2] stands there twice",
		"curfew.yaml:9: azure.credential.kind", "curfew.yaml:10: band is 90 to 5000", `curfew.yaml:13: people[0].roles[0] is "owner"`, "curfew.yaml:14: people[0].token_sha256",
		`curfew.yaml:15: people[1].name is "alice"`, "curfew.yaml:15: people[1].roles is missing", "curfew.yaml:17: people[2].name", "curfew.yaml:19: people[2].token_sha256 is another person's",
		"curfew.yaml:23: policy: rule a: duration 25h", "curfew.yaml:24: policy: rule a: the name is used twice", "curfew.yaml:26: policy: rule a: 3 approvals of 1 approvers can never", "curfew.yaml:28: request_expiry is 1m",
		"curfew.yaml:29: sweep_interval is 31s", "curfew.yaml:30: log.level", "curfew.yaml:30: log.format", "curfew.yaml:31: there is no key colour", `pattern "[x" is malformed`,
	} {
		if !strings.Contains(m, want) {
			t.Errorf("lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(m)
	}
}

func TestFilesThatAreNotUnderstoodInFullAreRefused(t *testing.T) {
	for name, c := range map[string]struct{ text, want string }{
		"unknown key":     {least + "listn: x\n", "curfew.yaml:4: there is no key listn"},
		"unknown inner":   {least + "log:\n  colour: x\n", "curfew.yaml:5: there is no key colour"},
		"key twice":       {least + "listen: 127.0.0.1:1\nlisten: 127.0.0.1:2\n", `curfew.yaml:5: the key "listen" already defined at line 4`},
		"second document": {least + "---\nlisten: x\n", "a second document"},
		"empty":           {"", "is empty"},
		"comment alone":   {"# nothing\n", "is empty"},
		"a list":          {"- installation: x\n", "not a mapping"},
		"broken":          {"installation: [x\n", "curfew.yaml:2: did not find"},
		"tab":             {"azure:\n\tcloud: public\n", "curfew.yaml:2: "},
		"wrong kind":      {least + "band: {first: low}\n", "curfew.yaml:4: str `low` cannot stand here: a number is needed"},
		"bad duration":    {least + "request_expiry: soon\n", `curfew.yaml:4: duration "soon" is not understood`},
		"bad network":     {least + "trusted_proxies: [ten]\n", "curfew.yaml:4: "},
		"alias bomb":      {least + "x: &a [1,1,1,1,1,1,1,1,1,1]\ny: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nz: &c [*b,*b,*b,*b,*b,*b,*b,*b]\n", "there is no key x"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(c.text)
			if m := message(t, err); !strings.Contains(m, c.want) {
				t.Errorf("got %s, want %s", m, c.want)
			}
		})
	}
	_, err := config.Load(config.Sources{File: filepath.Join(t.TempDir(), "absent.yaml")})
	if m := message(t, err); !strings.Contains(m, "cannot be read") {
		t.Errorf("got %s", m)
	}
}

func TestWarnings(t *testing.T) {
	c, err := load(least + `people:
  - {name: bob, roles: [requester], token_sha256: 81b637d8fcd2c6da6359e6963113a1170de795e4b725b84d1e0b4cfd9ec58ce9}
policy:
  rules:
    - {name: r, approvers: [bob, bod], requesters: [BOB]}
`)
	if err != nil {
		t.Fatal(err)
	}
	if len(c.Warnings) != 2 || !strings.Contains(c.Warnings[0], `"bob", who has not the role approver`) || !strings.Contains(c.Warnings[1], `"bod"`) {
		t.Errorf("got %q", c.Warnings)
	}
}

// Whatever is read without a fault is usable, and the same bytes are read the same way.
func FuzzLoad(f *testing.F) {
	f.Add(config.Example)
	f.Add(least)
	f.Add(least + "people: [{name: a}]\n")
	f.Add("a: &a [*a]\n")
	f.Add("installation: !!binary x\n<<: {a: b}\n")
	f.Fuzz(func(t *testing.T, text string) {
		if len(text) > 8<<10 { // the parser compares each key of a mapping with all others
			return
		}
		c, err := load(text)
		if err != nil {
			if message(t, err) == "" {
				t.Error("an error without words")
			}
			return
		}
		if len(c.Installation) < 4 || c.SweepInterval <= 0 || c.Band.First >= c.Band.Last || c.Policy.Validate() != nil {
			t.Errorf("accepted %+v", c)
		}
		d, err := load(text)
		if err != nil || !reflect.DeepEqual(c, d) {
			t.Errorf("read twice, it is %+v and %+v, %v", c, d, err)
		}
	})
}

func TestFaultsOfChannels(t *testing.T) {
	_, err := load(least + `notify:
  channels:
    - {name: Ops, type: webhook, url: "https://example.com/", secret_file: x}
    - {name: ops, type: pigeon}
    - {name: ops, type: webhook}
    - {name: a, type: webhook, url: "https://10.0.0.1/secret", secret_file: x, kinds: [request.created, coffee]}
    - {name: b, type: webhook, url: "http://example.com/", secret_file: x, allow_private: [10.0.0.1/8, 0.0.0.0/0]}
    - {name: c, type: slack, channel: C1, token_file: x, signing_secret_file: y, kinds: [request.created], url: "https://example.com"}
    - {name: e, type: email, server: "mail.example.com:587", from: "x", tls: maybe, user: u, domains: [x.example]}
    - {name: f, type: teams, templates: [{title: "{{.Who}}"}], people: true}
    - {name: d, type: slack, channel: C1, token_file: x, api: "https://169.254.169.254/", templates: [{kinds: [tea], title: "{{.Who"}, {title: "{{.Token}}"}, {body: "{{range .Reviews}}{{slice .Who 9}}{{end}}"}]}
`)
	got := message(t, err)
	for _, want := range []string{"channels[0].name is \"Ops\"", "channels[1].type is \"pigeon\"", "channels[2].name is \"ops\", which", "channels[2].url is missing",
		"channels[2].secret_file is missing", "channels[3].url cannot be used: 10.0.0.1 is private", "channels[3].kinds[1] is \"coffee\"", "channels[4].url cannot be used",
		"channels[4].allow_private[0] is not", "channels[4].allow_private[1] is 0.0.0.0/0",
		"channels[5].url is not for the type slack", "channels[6].from holds", "channels[6].tls is \"maybe\"", "channels[6].user and password_file", "channels[6].to is missing", "channels[6].domains is for people",
		"channels[7].url_file is missing", "channels[7].people is not for the type teams", "channels[5].kinds lacks request.denied", "channels[8].api cannot be used", "channels[8].templates[0].kinds[0] is \"tea\"",
		"channels[8].templates[0] cannot be used", "channels[8].templates[1] cannot be used: the title for", "channels[8].templates[2] cannot be used: the body for"} {
		if !strings.Contains(got, want) {
			t.Errorf("the faults lack %s:\n%s", want, got)
		}
	}
	if strings.Contains(got, "/secret") {
		t.Errorf("a URL may be a secret:\n%s", got)
	}
}

// Every default of the reference is the one that counts: a key that is left out has it, also where others of its part are given.
func TestEveryDefaultCounts(t *testing.T) {
	seen := 0
	var walk func(v reflect.Value, path string)
	walk = func(v reflect.Value, path string) {
		for i := range v.NumField() {
			f, at := v.Type().Field(i), path+v.Type().Field(i).Tag.Get("yaml")
			if f.Type.Kind() == reflect.Struct && f.Tag.Get("default") == "" {
				walk(v.Field(i), at+".")
			}
			want := f.Tag.Get("default")
			if want == "" {
				continue
			}
			seen++
			got := fmt.Sprint(v.Field(i).Interface())
			if d, ok := v.Field(i).Interface().(access.Duration); ok {
				w, err := access.ParseDuration(want)
				if err != nil || access.Duration(w) != d {
					t.Errorf("%s: the reference says %s, and it is %s", at, want, got)
				}
			} else if got != want {
				t.Errorf("%s: the reference says %s, and it is %s", at, want, got)
			}
		}
	}
	walk(reflect.ValueOf(config.Default()), "")
	if seen < 20 {
		t.Errorf("only %d defaults were seen", seen)
	}
	c, err := load(least + `sign_in: {issuer: "https://login.example.com", client_id: x, public_url: "https://curfew.example.com", roles: [{role: requester, groups: [sre]}]}` + "\n")
	if err != nil || !c.SignIn.Device || c.SignIn.ConfirmAfter != access.Duration(4*time.Minute) || c.SignIn.GroupsClaim != "groups" {
		t.Errorf("the least sign-in: %+v, %v", c.SignIn, err)
	}
}

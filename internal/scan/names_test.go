package scan_test

import (
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/scan"
)

var ruleNames = []struct{ name, want string }{
	{"curfew-allow-demo-abc123-20261126T120000Z", "allow demo abc123 20261126T120000Z"},
	{"CURFEW-ALLOW-DEMO-ABC123-20261126t120000z", "allow demo abc123 20261126T120000Z"},
	{"curfew-allow-demo-abc123-20261326T120000Z", "foreign"}, // no such month
	{"curfew-allow-demo-abc123-20261126T120000", "foreign"},
	{"curfew-allow-dem-abc123-20261126T120000Z", "foreign"}, // an installation has four letters at least
	{"curfew-allow-demo-abc123-20261126T120000Z-x", "foreign"},
	{"curfew-deny-demo-tcp-22", "deny demo"},
	{"curfew-deny-demo-udp-8000-8010-n12", "deny demo"},
	{"curfew-deny-demo-icmp-22", "foreign"},
	{"curfew-deny-demo", "foreign"},
	{"curfew-exempt-demo-bastion-tcp-22", "exempt demo"},
	{"curfew-exempt-demo-azure-bastion-any-some-n2", "exempt demo"},
	{"curfew-exempt-demo-tcp-22", "foreign"},
	{"curfew-", "foreign"},
	{"curfewx-deny-demo-tcp-22", "foreign"},
	{"", "foreign"},
	{"allow-ssh", "foreign"},
	{"MicrosoftDefenderForCloud-JITRule_-1151891693_545C5DBC675443D3BF179EFD1EF8254D", "defender-deny"},
	{"SecurityCenter-JITRule_-1105480617_9EF6964FE766478B9EC568B32FB82045", "defender-deny"},
	{"SecurityCenter-JITRule-1170687618-8C18BF8921F041989344B4F1E3A0C370", "defender-allow"},
	{"microsoftdefenderforcloud-jitrule--1170687618-8c18bf8921f041989344b4f1e3a0c370", "defender-allow"},
	{"MicrosoftDefenderForCloud-JITRule-ssh", "foreign"}, // FACTS 1.4: a rule with another name is not a JIT rule
	{"MicrosoftDefenderForCloud-JITRule-1170687618-8C18BF8921F041989344B4F1E3A0C37", "foreign"},
	{"my-SecurityCenter-JITRule-1170687618-8C18BF8921F041989344B4F1E3A0C370", "foreign"},
}

func TestRuleNames(t *testing.T) {
	for _, c := range ruleNames {
		if got := nameText(c.name); got != c.want {
			t.Errorf("%q: got %s, want %s", c.name, got, c.want)
		}
	}
}

func nameText(name string) string {
	kind, installation, grant, end := scan.NameOf(name)
	return strings.Join(strings.Fields(strings.Join([]string{kind, installation, grant, end}, " ")), " ")
}

// The scanner has its own parser, so that it does not share a fault with what writes the rules; they must agree all the same.
func FuzzRuleNames(f *testing.F) {
	for _, c := range ruleNames {
		f.Add(c.name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		kind, installation, grant, end := scan.NameOf(name)
		h, ours := enforce.ParseName(name)
		if !ours {
			if kind == "allow" || kind == "deny" || kind == "exempt" {
				t.Fatalf("%q is %s here and not ours there", name, kind)
			}
			return
		}
		if kind != string(h.Kind) || installation != h.Installation || kind == "allow" && ("g-"+grant != string(h.Grant) || end != h.End.Format(enforce.EndLayout)) {
			t.Fatalf("%q is %s %s %s %s here and %+v there", name, kind, installation, grant, end, h)
		}
	})
}

package remedy_test

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/hashicorp/hcl/v2"
	"github.com/hashicorp/hcl/v2/hclsyntax"
	"github.com/hashicorp/hcl/v2/hclwrite"
	"pgregory.net/rapid"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/scan/remedy"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

var update = flag.Bool("update", false, "write the golden files anew")

func text(r *scan.Remediation) string {
	var b strings.Builder
	for _, p := range []struct{ name, text string }{{"summary", r.Summary}, {"curfew", r.Curfew}, {"az", r.AzureCLI}, {"bicep", r.Bicep}, {"terraform", r.Terraform}, {"portal", r.Portal}} {
		if p.text != "" {
			fmt.Fprintf(&b, "-- %s --\n%s\n", p.name, strings.TrimRight(p.text, "\n"))
		}
	}
	return b.String()
}

// Where fix does nothing without a choice or a consent, our command has it: alone it would leave the finding as it is.
func TestCommandIsWhole(t *testing.T) {
	e := world(t)
	all := findings(e)
	for name, want := range map[string]string{
		"overdue":          "curfew fix f-0123456789",
		"overdue-defender": "curfew fix f-0123456789 --remove-defender-rule shop/live-nsg/MicrosoftDefenderForCloud-JITRule-1-0123456789abcdef0123456789abcdef",
		"jit-broad":        "curfew fix f-0123456789 --max 3h --from CIDR",
		"terminate-off":    "curfew fix f-0123456789 --upgrade-instances",
		"terminate-behind": "curfew fix f-0123456789 --upgrade-instances",
		"terminate-short":  "curfew fix f-0123456789",
	} {
		if r := remedy.For(all[name], e); r.Curfew != want {
			t.Errorf("%s: %q, want %q", name, r.Curfew, want)
		}
	}
	if r := remedy.For(all["nsg-broad-port"], e); !strings.HasPrefix(r.Summary, "Deny port 22 from the Internet in web-nsg at ") {
		t.Errorf("one port: %q", r.Summary)
	}
}

func TestGolden(t *testing.T) {
	e := world(t)
	all := findings(e)
	for name, f := range all {
		r := remedy.For(f, e)
		if r == nil || r.Summary == "" {
			t.Errorf("%s: no remedy", name)
			continue
		}
		file := filepath.Join("testdata", name+".golden")
		got := text(r)
		if *update {
			if err := os.WriteFile(file, []byte(got), 0o644); err != nil {
				t.Fatal(err)
			}
		}
		want, err := os.ReadFile(file)
		if err != nil || got != string(want) {
			t.Errorf("%s: %v, got\n%s\nwant\n%s", name, err, got, want)
		}
		if again := remedy.For(f, e); *again != *r {
			t.Errorf("%s: another answer the second time", name)
		}
	}
	files, err := filepath.Glob("testdata/*.golden")
	if err != nil || len(files) != len(all) {
		t.Errorf("%d golden files for %d findings (%v)", len(files), len(all), err)
	}
	rules := map[scan.RuleID]bool{}
	for _, f := range all {
		rules[f.Rule] = true
	}
	for _, r := range scan.Rules {
		if !rules[r.ID] {
			t.Errorf("no finding of %s", r.ID)
		}
	}
}

func TestNoRemedyWithoutFailure(t *testing.T) {
	e := world(t)
	f := failing(e, scan.VMPortExposed, "web-01", internet(22))
	for _, s := range []scan.Status{scan.Pass, scan.NotApplicable, scan.Unknown, ""} {
		if f.Status = s; remedy.For(f, e) != nil {
			t.Errorf("a remedy for %q", s)
		}
	}
	// What the evidence names and the estate does not hold is no reason to fail or to invent.
	f = scan.Finding{ID: "f-1", Rule: scan.VMPortExposed, Status: scan.Fail, Resource: "/subscriptions/x/resourceGroups/y/providers/Microsoft.Compute/virtualMachines/gone", Evidence: scan.Evidence{Ports: []scan.PortEvidence{internet(22)}}}
	for _, r := range scan.Rules {
		f.Rule = r.ID
		if got := remedy.For(f, e); got == nil || got.Summary == "" || r.ID != scan.VMSSTerminateOff && r.ID != scan.VMSSTerminateShort && got.AzureCLI+got.Bicep+got.Terraform != "" {
			t.Errorf("%s of what is not there: %+v", r.ID, got)
		}
	}
	// az reads a file in place of a value that begins with @: such a name gets no line.
	f = scan.Finding{Rule: scan.RuleOverdue, Status: scan.Fail, Evidence: scan.Evidence{Rules: []scan.RuleEvidence{{NSG: "/subscriptions/s/resourceGroups/g/providers/Microsoft.Network/networkSecurityGroups/n", Rule: "@/etc/passwd"}}}}
	if got := remedy.For(f, e); got.AzureCLI != "" || got.Portal == "" {
		t.Errorf("%+v", got)
	}
	f.Evidence.Rules[0].Rule = "--help"
	if got := remedy.For(f, e); !strings.Contains(got.AzureCLI, "--name='--help'") {
		t.Errorf("%s", got.AzureCLI)
	}
}

// commands runs the az lines in a shell where az writes down its arguments, and returns them.
func commands(t *testing.T, script string) [][]string {
	t.Helper()
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "sh", "-eu", "-c", "az() { printf '%s\\0' \"$@\" >&3; printf '\\n\\0' >&3; }\n"+script)
	cmd.Dir, cmd.Env = dir, []string{"NETWORK=203.0.113.0/24", "PATH=/nowhere"}
	out, err := os.Create(filepath.Join(dir, "args"))
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	var errs bytes.Buffer
	cmd.ExtraFiles, cmd.Stderr = []*os.File{out}, &errs
	if err := cmd.Run(); err != nil || errs.Len() > 0 {
		t.Fatalf("%v\n%s\n%s", err, errs.String(), script)
	}
	data, err := os.ReadFile(out.Name())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"pwned"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err == nil {
			t.Fatalf("the shell ran what a name says:\n%s", script)
		}
	}
	var all [][]string
	for _, line := range strings.Split(strings.TrimSuffix(string(data), "\n\x00"), "\n\x00") {
		all = append(all, strings.Split(strings.TrimSuffix(line, "\x00"), "\x00"))
	}
	return all
}

// options reads arguments as az does: what follows an option up to the next one belongs to it.
func options(args []string) map[string][]string {
	out := map[string][]string{}
	name := ""
	for _, a := range args {
		if strings.HasPrefix(a, "--") {
			name = a
			out[name] = []string{}
		} else {
			out[name] = append(out[name], a)
		}
	}
	return out
}

// The deny does what it says: with it the Internet at large is out, and the office, the virtual network and a live window are in.
func TestDenyShutsAndCutsNobodyElse(t *testing.T) {
	e := world(t)
	r := remedy.For(findings(e)["exposed"], e)
	var more []estates.Rule
	for _, args := range commands(t, r.AzureCLI) {
		o := options(args)
		if strings.Join(o[""], " ") != "network nsg rule create" || o["--nsg-name"][0] != "web-nsg" || o["--subscription"][0] != sub || o["--resource-group"][0] != "shop" {
			t.Fatalf("%q", args)
		}
		priority, err := strconv.Atoi(o["--priority"][0])
		if err != nil || priority < 100 || priority > 4096 || o["--direction"][0] != "Inbound" {
			t.Fatalf("%q", args)
		}
		more = append(more, estates.Rule{Name: o["--name"][0], Priority: priority, Access: o["--access"][0], Protocol: o["--protocol"][0], Source: o["--source-address-prefixes"][0],
			Destinations: o["--destination-address-prefixes"], Ports: o["--destination-port-ranges"]})
	}
	after := world(t, more...)
	for name, want := range map[string]bool{"web-01": false, "web-02": true} {
		for _, v := range after.VMs() {
			if v.Name != name {
				continue
			}
			for _, w := range after.Ways(v, netsec.TCP, 22) {
				if got := w.Kind != estate.VirtualNetwork && w.Reach.Exposed(); w.Kind != estate.VirtualNetwork && got != want {
					t.Errorf("%s by %s: exposed %t, want %t", name, w.Kind, got, want)
				}
				if w.Kind == estate.VirtualNetwork && w.Reach.VirtualNetwork.Access() != netsec.Allow {
					t.Errorf("%s: the virtual network does not get in any more", name)
				}
			}
			for _, src := range []string{"203.0.113.3", "198.51.100.9", "10.1.0.77"} {
				w := after.Ways(v, netsec.TCP, 22)[0]
				pk := netsec.Packet{Src: netipAddr(src), Dst: w.Dest, SrcPort: 50000, DstPort: 22, Protocol: netsec.TCP, Inbound: true}
				if d := w.Path.Decide(pk); d.Access != netsec.Allow {
					t.Errorf("%s: %s does not get in any more: %+v", name, src, d)
				}
			}
		}
	}
}

// Every word reaches az as it is, whatever a name holds.
func TestShell(t *testing.T) {
	e := world(t)
	for name, f := range findings(e) {
		r := remedy.For(f, e)
		if r.AzureCLI == "" {
			continue
		}
		for _, args := range commands(t, r.AzureCLI) {
			if len(args) < 4 {
				t.Errorf("%s: %q", name, args)
			}
			o := options(args)
			for _, k := range []string{"--subscription", "--resource-group", "--nsg-name", "--name", "--url", "--method", "--body", "--query"} {
				if v, ok := o[k]; ok && len(v) != 1 {
					t.Errorf("%s: %s has %q", name, k, v)
				}
			}
			if n, ok := o["--nsg-name"]; ok && strings.HasSuffix(name, "hostile") && n[0] != hostile {
				t.Errorf("%s: got %q, want %q", name, n[0], hostile)
			}
			if d, ok := o["--description"]; ok && len(d[0]) > 140 {
				t.Errorf("%s: the description is too long: %q", name, d)
			}
		}
		if r.Curfew != "" {
			cmd := exec.CommandContext(t.Context(), "sh", "-n", "-c", r.Curfew)
			if out, err := cmd.CombinedOutput(); err != nil || strings.Contains(r.Curfew, "\n") {
				t.Errorf("%s: %s: %v %s", name, r.Curfew, err, out)
			}
		}
	}
}

func TestTerraform(t *testing.T) {
	e := world(t)
	seen := 0
	for name, f := range findings(e) {
		r := remedy.For(f, e)
		if r.Terraform == "" {
			continue
		}
		seen++
		if got := string(hclwrite.Format([]byte(r.Terraform))); got != r.Terraform {
			t.Errorf("%s: terraform fmt would write\n%s\nand not\n%s", name, got, r.Terraform)
		}
		file, diags := hclsyntax.ParseConfig([]byte(r.Terraform), name+".tf", hcl.InitialPos)
		if diags.HasErrors() {
			t.Errorf("%s: %v\n%s", name, diags, r.Terraform)
			continue
		}
		for _, b := range file.Body.(*hclsyntax.Body).Blocks {
			for _, a := range b.Body.Attributes {
				// A name is a constant: no template of it refers to anything.
				if vars := a.Expr.Variables(); len(vars) > 0 && a.Name != "network_security_group_id" && (len(vars) != 1 || vars[0].RootName() != "var") && a.Name != "type" {
					t.Errorf("%s: %s refers to %v", name, a.Name, vars)
				}
				if a.Name == "network_security_group_name" && strings.HasSuffix(name, "hostile") {
					v, diags := a.Expr.Value(nil)
					if diags.HasErrors() || v.AsString() != hostile {
						t.Errorf("%s: got %q, want %q (%v)", name, v.AsString(), hostile, diags)
					}
				}
			}
		}
	}
	if seen < 8 {
		t.Errorf("only %d findings have Terraform", seen)
	}
}

func TestBicep(t *testing.T) {
	e := world(t)
	seen := 0
	for name, f := range findings(e) {
		r := remedy.For(f, e)
		if r.Bicep == "" {
			continue
		}
		seen++
		texts, err := bicepTexts(r.Bicep)
		if err != nil {
			t.Errorf("%s: %v\n%s", name, err, r.Bicep)
		}
		if name == "exposed-hostile" && !slices.Contains(texts, hostile) {
			t.Errorf("%s: %q is not among %q", name, hostile, texts)
		}
	}
	if seen < 8 {
		t.Errorf("only %d findings have Bicep", seen)
	}
	for _, bad := range []string{"var a = 'x", "var a = '${b}'", "var a = {", "var a = [ 1 2 ]", "var a = {\n b: 1 c: 2\n}", "nonsense", "var a = '\\q'", "var a = {\n b 1\n}", "var a = 1\nvar a = 2"} {
		if _, err := bicepTexts(bad); err == nil {
			t.Errorf("the checker takes %q", bad)
		}
	}
}

func TestNarrowerRulesAndWindows(t *testing.T) {
	e := world(t)
	all := findings(e)
	for name, want := range map[string][]string{
		"exposed-full":  {"No priority is free before the rule any (priority 100)"},
		"exposed-live":  {"No priority is free before the rule rdp (priority 101)"}, // 100 is a live window
		"exposed-tight": {"free priority 298", "The rule partner stands behind it"},
		"exposed-bare":  {"No network security group stands in the way"},
	} {
		r := remedy.For(all[name], e)
		for _, w := range want {
			if !strings.Contains(r.Summary, w) {
				t.Errorf("%s: %q is missing in %q", name, w, r.Summary)
			}
		}
	}
}

// What a template gives is what the same functions give that write everything else; a text that has to be quoted anywhere has no template.
func TestTemplateIsTheText(t *testing.T) {
	plain := rapid.StringMatching(`[A-Za-z0-9_/.:][A-Za-z0-9_/.:,-]{0,12}`)
	odd := rapid.OneOf(rapid.String(), rapid.SampledFrom([]string{hostile, "-web", "Zq0Zq", "a b", "@x", "$x", "ü"}))
	quick := 0
	rapid.Check(t, func(t *rapid.T) {
		text := func(name string) string {
			if rapid.IntRange(0, 19).Draw(t, "odd") == 0 {
				return odd.Draw(t, name)
			}
			return plain.Draw(t, name)
		}
		ports := rapid.SliceOfN(rapid.SampledFrom([]string{"22", "3389", "5985"}), 1, 3).Draw(t, "ports")
		a, b := remedy.JIT(text("sub"), text("group"), text("name"), text("id"), text("location"), text("policy"), ports...)
		if a == nil {
			return
		}
		quick++
		if *a != *b {
			t.Fatalf("by template\n%+v\nwithout\n%+v", *a, *b)
		}
	})
	if quick == 0 {
		t.Error("no template was used")
	}
	if a, b := remedy.JIT(sub, "shop", "web-01", "/subscriptions/"+sub+"/resourceGroups/shop/providers/Microsoft.Compute/virtualMachines/web-01", "westeurope", "web-01", "22"); a == nil || *a != *b {
		t.Errorf("an ordinary machine: %v", a)
	}
	if a, _ := remedy.JIT(sub, "shop", hostile, "/x", "westeurope", "web-01", "22"); a != nil {
		t.Error("a hostile name has a template")
	}
}

package azure_test

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"go.yaml.in/yaml/v4"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// bodies returns the reply bodies of a recording, in either of the two formats that are about.
func bodies(t *testing.T, file string) []string {
	t.Helper()
	raw, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var rec struct {
		Interactions []struct {
			Response struct {
				Body yaml.Node `yaml:"body"`
			} `yaml:"response"`
		} `yaml:"interactions"`
	}
	if err := yaml.Unmarshal(raw, &rec); err != nil {
		t.Fatalf("%s: %v", file, err)
	}
	var out []string
	for _, i := range rec.Interactions {
		var plain string
		var wrapped struct {
			String string `yaml:"string"`
		}
		if i.Response.Body.Decode(&plain) == nil {
			out = append(out, plain)
		} else if i.Response.Body.Decode(&wrapped) == nil {
			out = append(out, wrapped.String)
		}
	}
	return out
}

// recorded calls f with every resource of a full type that Azure answered in the recordings, alone or in a list.
func recorded(t *testing.T, f func(t *testing.T, file, typ string, body json.RawMessage)) {
	t.Helper()
	for _, dir := range []string{"network", "cloud-provider-azure", "vm"} {
		files, err := filepath.Glob(filepath.Join(testkit.Shared(t, "azure", "recordings", dir), "*.yaml"))
		if err != nil || len(files) == 0 {
			t.Fatalf("no recordings in %s: %v", dir, err)
		}
		for _, file := range files {
			for _, b := range bodies(t, file) {
				var v struct {
					Type  string            `json:"type"`
					Value []json.RawMessage `json:"value"`
				}
				if json.Unmarshal([]byte(b), &v) != nil {
					continue
				}
				if v.Type != "" {
					f(t, filepath.Base(file), strings.ToLower(v.Type), json.RawMessage(b))
				}
				for _, item := range v.Value {
					var one struct {
						Type string `json:"type"`
					}
					if json.Unmarshal(item, &one) == nil && one.Type != "" {
						f(t, filepath.Base(file), strings.ToLower(one.Type), item)
					}
				}
			}
		}
	}
}

// P3: every group that Azure was ever seen to answer goes back as it came, but for what Azure computes.
func TestRecordedNSGsGoBackAsTheyCame(t *testing.T) {
	groups, rules := 0, 0
	recorded(t, func(t *testing.T, file, typ string, body json.RawMessage) {
		if typ != "microsoft.network/networksecuritygroups" {
			return
		}
		var n azure.NSG
		if err := json.Unmarshal(body, &n); err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		if n.ID == "" || n.Etag == "" {
			t.Errorf("%s: id %q, etag %q", file, n.ID, n.Etag)
		}
		groups++
		out, err := n.MarshalJSON()
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		was, is := tree(t, body), tree(t, out)
		delete(was, "etag")
		for _, k := range []string{"defaultSecurityRules", "networkInterfaces", "subnets", "provisioningState"} {
			delete(was["properties"].(map[string]any), k)
		}
		if !reflect.DeepEqual(was, is) {
			t.Errorf("%s: sent %s, read %s", file, out, body)
		}
		for _, r := range n.Rules {
			rules++
			if !bytes.Contains(out, r.Raw) || !bytes.Contains(body, r.Raw) {
				t.Errorf("%s: rule %s is not sent byte for byte", file, r.Name)
			}
			// Written from its fields and read again, a rule says the same; and so it does after Edited.
			fresh := r
			fresh.Raw = nil
			edited, err := r.Edited()
			if err != nil {
				t.Fatalf("%s: rule %s: %v", file, r.Name, err)
			}
			for _, x := range []azure.SecurityRule{fresh, edited} {
				text, err := x.MarshalJSON()
				if err != nil {
					t.Fatalf("%s: rule %s: %v", file, r.Name, err)
				}
				var back azure.SecurityRule
				if err := json.Unmarshal(text, &back); err != nil {
					t.Fatal(err)
				}
				back.Raw = nil
				if !sameRule(back, fresh) {
					t.Errorf("%s: got %+v, want %+v", file, back, fresh)
				}
			}
		}
	})
	if groups < 30 || rules < 20 {
		t.Errorf("found %d groups and %d rules in the recordings", groups, rules)
	}
}

func sameRule(a, b azure.SecurityRule) bool {
	x, y := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range x.NumField() {
		if x.Field(i).Kind() == reflect.Slice && x.Field(i).Len() == 0 && y.Field(i).Len() == 0 {
			continue // [] and absent say the same
		}
		if !reflect.DeepEqual(x.Field(i).Interface(), y.Field(i).Interface()) {
			return false
		}
	}
	return true
}

func tree(t *testing.T, b []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	var v map[string]any
	if err := d.Decode(&v); err != nil {
		t.Fatal(err)
	}
	return v
}

// The other types read what Azure answers.
func TestRecordedResourcesAreRead(t *testing.T) {
	count := map[string]int{}
	read := func(file string, body []byte, v any, ok func() bool) {
		if err := json.Unmarshal(body, v); err != nil {
			t.Errorf("%s: %v", file, err)
		} else if !ok() {
			t.Errorf("%s: %T read %s as %+v", file, v, body, v)
		}
	}
	recorded(t, func(t *testing.T, file, typ string, body json.RawMessage) {
		count[typ]++
		switch typ {
		case "microsoft.compute/virtualmachines":
			var v azure.VM
			read(file, body, &v, func() bool {
				return v.ID != "" && v.Properties.VMID != "" && len(v.Properties.NetworkProfile.NetworkInterfaces) > 0 && v.Properties.StorageProfile.OSDisk.OSType != ""
			})
		case "microsoft.network/networkinterfaces":
			var v azure.NIC
			read(file, body, &v, func() bool {
				return v.ID != "" && len(v.Properties.IPConfigurations) > 0 && v.Properties.IPConfigurations[0].Properties.Subnet != nil
			})
		case "microsoft.network/virtualnetworks":
			var v azure.VNet
			read(file, body, &v, func() bool { return v.ID != "" && len(v.Properties.AddressSpace.AddressPrefixes) > 0 })
		case "microsoft.network/publicipaddresses":
			var v azure.PublicIP
			read(file, body, &v, func() bool { return v.ID != "" && v.SKU.Name != "" })
		case "microsoft.network/loadbalancers":
			var v azure.LoadBalancer
			read(file, body, &v, func() bool { return v.ID != "" && v.SKU.Name != "" })
		}
	})
	for _, typ := range []string{"microsoft.compute/virtualmachines", "microsoft.network/networkinterfaces", "microsoft.network/virtualnetworks",
		"microsoft.network/publicipaddresses", "microsoft.network/loadbalancers"} {
		if count[typ] == 0 {
			t.Errorf("no recorded %s", typ)
		}
	}
}

package estates_test

import (
	"bytes"
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

func TestDemo(t *testing.T) {
	data := estates.Demo()
	if !bytes.Equal(data, estates.Demo()) {
		t.Error("two calls give different estates")
	}
	s, err := sim.New(sim.Config{Estate: data})
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(s.Dump(), data) {
		t.Error("the simulator dumps something else than it loaded")
	}
	if n := len(s.IDs("Microsoft.Compute/virtualMachines")); n < 15 || n > 20 {
		t.Errorf("got %d machines, want about 15", n)
	}
	if n := len(s.IDs("microsoft.resources/subscriptions")); n != 2 {
		t.Errorf("got %d subscriptions, want 2", n)
	}
	for _, client := range []string{`"203.0.113.9"`, `"203.0.113.10"`} {
		if bytes.Contains(data, []byte(client)) {
			t.Errorf("%s belongs to a simulated client", client)
		}
	}
	for _, m := range regexp.MustCompile(`"ipAddress":"([^"]+)"`).FindAllSubmatch(data, -1) {
		if a := string(m[1]); !strings.HasPrefix(a, "198.51.100.") && !strings.HasPrefix(a, "203.0.113.") {
			t.Errorf("public address %s is outside the documentation ranges", a)
		}
	}
	var file struct{ Resources []map[string]any }
	if err := json.Unmarshal(data, &file); err != nil {
		t.Fatal(err)
	}
	for _, r := range file.Resources {
		for _, f := range []string{"id", "type"} {
			if v, _ := r[f].(string); v == "" && !strings.HasPrefix(r["id"].(string), "/subscriptions/") {
				t.Errorf("%v has no %s", r["id"], f)
			}
		}
	}
	lb, ok := s.Get("/subscriptions/" + estates.DemoShop + "/resourceGroups/back-office/providers/Microsoft.Network/loadBalancers/reports-lb/inboundNatRules/ssh-reports-01")
	if !ok || !bytes.Contains(lb, []byte("reports-01-nic/ipConfigurations/ipconfig1")) {
		t.Errorf("the NAT rule does not lead to reports-01: %s", lb)
	}
}

func BenchmarkLarge(b *testing.B) {
	for b.Loop() {
		estates.Large(10000, 500, 5)
	}
}

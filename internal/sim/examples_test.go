package sim_test

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/testkit"
)

// The bodies of the official examples load, and GET shows every field of them again. Differences that are accepted stand in known.
func TestOfficialExamples(t *testing.T) {
	files := []string{}
	for _, pattern := range []string{
		"network/resource-manager/Microsoft.Network/stable/*/examples/*Get*.json",
		"compute/resource-manager/Microsoft.Compute/ComputeRP/stable/*/examples/virtualMachineExamples/VirtualMachine_Get*.json",
		"compute/resource-manager/Microsoft.Compute/ComputeRP/stable/*/examples/virtualMachineScaleSetExamples/VirtualMachineScaleSet_Get*.json",
	} {
		more, err := filepath.Glob(filepath.Join(testkit.Shared(t, "azure", "specs"), pattern))
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, more...)
	}
	types := regexp.MustCompile(`(?i)/providers/Microsoft\.(Network/(networkSecurityGroups|networkInterfaces|publicIPAddresses|virtualNetworks|loadBalancers|applicationSecurityGroups|bastionHosts|azureFirewalls)|Compute/(virtualMachines|virtualMachineScaleSets))/[^/]+$`)
	known := []struct{ where, reason string }{
		{".provisioningState", "an example may show any state; loaded things have settled"},
		{".etag", "examples show null or text that is no etag"},
		{".type", "the examples leave it out, or spell it in capitals"},
		{".name", "some examples call a resource otherwise than its id does"},
		{".instanceView", "shown where it is expanded"},
		{".defaultSecurityRules", "the example shows only some of them"},
		{".virtualMachine", "the machine is not in the example"},
	}
	tried := map[string]int{}
	for _, f := range files {
		data, err := os.ReadFile(f)
		if err != nil {
			t.Fatal(err)
		}
		var ex struct {
			Responses map[string]struct{ Body map[string]any }
		}
		data = regexp.MustCompile(`(?i)"/subscriptions/[^/"]+`).ReplaceAll(data, []byte(`"`+sub))
		if json.Unmarshal(data, &ex) != nil {
			continue
		}
		body := ex.Responses["200"].Body
		id, _ := body["id"].(string)
		if !types.MatchString(id) {
			continue
		}
		t.Run(filepath.Base(f), func(t *testing.T) {
			id = regexp.MustCompile(`(?i)^/subscriptions/[^/]+`).ReplaceAllString(id, sub)
			body["id"] = id
			estate, err := json.Marshal(map[string]any{"resources": []any{body}})
			if err != nil {
				t.Fatal(err)
			}
			s, err := sim.New(sim.Config{Estate: estate})
			if err != nil {
				t.Fatal(err)
			}
			raw, ok := s.Get(id)
			var got map[string]any
			if !ok || json.Unmarshal(raw, &got) != nil {
				t.Fatalf("got %s", raw)
			}
			tried[strings.ToLower(types.FindStringSubmatch(id)[1])]++
			covers(func(where, format string, args ...any) {
				for _, k := range known {
					if strings.HasSuffix(where, k.where) {
						return
					}
				}
				t.Errorf("%s: %s", where, fmt.Sprintf(format, args...))
			}, "", body, got)
		})
	}
	if len(tried) < 8 {
		t.Errorf("examples of only %d types were found: %v", len(tried), tried)
	}
}

// covers compares like diff, but got may hold more.
func covers(report func(where, format string, args ...any), where string, want, got any) {
	switch w := want.(type) {
	case nil:
	case map[string]any:
		g, ok := got.(map[string]any)
		if !ok {
			report(where, "got %v, want %v", got, want)
			return
		}
		for k, v := range w {
			covers(report, where+"."+k, v, g[k])
		}
	case []any:
		g, ok := got.([]any)
		if !ok && len(w) == 0 {
			return
		}
		if !ok || len(g) != len(w) {
			report(where, "got %v, want %v", got, want)
			return
		}
		for i := range w {
			covers(report, where+"[]", w[i], g[i])
		}
	default:
		if s, _ := got.(string); s != "" && strings.HasSuffix(where, ".id") {
			return // examples are careless about the parents in ids; a lost reference would be empty
		}
		if fmt.Sprint(want) != fmt.Sprint(got) {
			report(where, "got %v, want %v", got, want)
		}
	}
}

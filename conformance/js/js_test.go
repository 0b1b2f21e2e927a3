// Package js_test drives the simulator with the official Azure SDK for JavaScript, unmodified: sdk.mjs, in node.
package js_test

import (
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/conformance/simtest"
)

func TestMain(m *testing.M) { simtest.Main(m) }

func TestJavaScriptSDK(t *testing.T) {
	dir := simtest.Modules(t)
	rec := simtest.NewRecorder(t, simtest.Artefacts(t, "js"))
	a := rec.Between(simtest.Sim(t))
	cmd := exec.Command("node", filepath.Join(dir, "sdk.mjs"))
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "NODE_EXTRA_CA_CERTS="+a.CA, "AZURE_ENDPOINT="+a.URL, "AZURE_TENANT_ID="+simtest.Tenant, "AZURE_CLIENT_ID="+simtest.ClientID,
		"AZURE_CLIENT_SECRET="+simtest.ClientSecret, "SUBSCRIPTION="+simtest.Shop, "NO_PROXY=*")
	out, err := cmd.CombinedOutput()
	if werr := os.WriteFile(rec.Dir()+".txt", out, 0o644); werr != nil {
		t.Error(werr)
	}
	passed := 0
	for line := range strings.Lines(string(out)) {
		var step struct {
			Step, Error string
			Saw         any
		}
		if json.Unmarshal([]byte(line), &step) != nil {
			t.Log(strings.TrimSpace(line))
			continue
		}
		t.Run(step.Step, func(t *testing.T) {
			if step.Error != "" {
				t.Fatal(step.Error)
			}
			t.Log("saw", step.Saw)
		})
		passed++
	}
	if err != nil || passed != 7 {
		t.Fatalf("%d of 7 steps ran: %v", passed, err)
	}
	t.Run("oav", func(t *testing.T) { simtest.Validate(t, rec.Dir(), "js") })
}

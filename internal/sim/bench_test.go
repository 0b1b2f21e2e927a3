package sim_test

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"

	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

var large = sync.OnceValue(func() []byte { return estates.Large(10000, 500, 1) })

func benchSim(b *testing.B) (*sim.Sim, func(method, path, body string) string) {
	s, err := sim.New(sim.Config{Estate: large()})
	if err != nil {
		b.Fatal(err)
	}
	hc, tok := &http.Client{Transport: s.Transport()}, s.Token()
	return s, func(method, path, body string) string {
		req, _ := http.NewRequest(method, path, strings.NewReader(body))
		req.Header.Set("Authorization", "Bearer "+tok)
		resp, err := hc.Do(req)
		if err != nil {
			b.Fatal(err)
		}
		raw, err := io.ReadAll(resp.Body)
		if err != nil || resp.StatusCode > 299 {
			b.Fatal(err, resp.StatusCode, string(raw))
		}
		return string(raw)
	}
}

func BenchmarkListMachines(b *testing.B) {
	s, call := benchSim(b)
	path := strings.Split(s.IDs("Microsoft.Compute/virtualMachines")[0], "/resourceGroups/")[0] + "/providers/Microsoft.Compute/virtualMachines"
	for b.Loop() {
		n, next := 0, "https://management.azure.com"+path+"?api-version=2024-07-01"
		for next != "" {
			page := call("GET", next, "")
			n += strings.Count(page, `"vmId"`)
			_, next, _ = strings.Cut(page, `"nextLink":"`)
			next, _, _ = strings.Cut(next, `"`)
		}
		if n != 10000 {
			b.Fatal(n)
		}
	}
}

func BenchmarkPutNSG(b *testing.B) {
	s, call := benchSim(b)
	id := s.IDs("Microsoft.Network/networkSecurityGroups")[0]
	raw, _ := s.Get(id)
	i := 0
	for b.Loop() {
		i++
		body := strings.Replace(string(raw), `"destinationPortRange":"8000"`, fmt.Sprintf(`"destinationPortRange":"%d"`, 1000+i%1000), 1)
		call("PUT", "https://management.azure.com"+id+"?api-version=2024-03-01", body)
	}
}

func BenchmarkGraphPage(b *testing.B) {
	_, call := benchSim(b)
	body := `{"query":"Resources | where type =~ 'microsoft.compute/virtualmachines' | project id, name, properties | order by id asc","options":{"$top":1000}}`
	for b.Loop() {
		call("POST", "https://management.azure.com"+graphPath+"?api-version=2024-04-01", body)
	}
}

package azure_test

import (
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/sim"
)

// What stands beside a termination notice, known to us or not, goes back as it was read.
func TestWithTermination(t *testing.T) {
	for _, c := range []struct {
		profile   string
		enable    bool
		notBefore string
		want      string
	}{
		{``, true, "PT5M", `{"terminateNotificationProfile":{"enable":true,"notBeforeTimeout":"PT5M"}}`},
		{`null`, true, "PT5M", `{"terminateNotificationProfile":{"enable":true,"notBeforeTimeout":"PT5M"}}`},
		{`{}`, true, "PT10M", `{"terminateNotificationProfile":{"enable":true,"notBeforeTimeout":"PT10M"}}`},
		{`{"osImageNotificationProfile":{"enable":true,"notBeforeTimeout":"PT15M"},"later":[1, 2.50]}`, true, "PT5M",
			`{"osImageNotificationProfile":{"enable":true,"notBeforeTimeout":"PT15M"},"later":[1, 2.50],"terminateNotificationProfile":{"enable":true,"notBeforeTimeout":"PT5M"}}`},
		{`{"terminateNotificationProfile":{"notBeforeTimeout":"PT1M","future":{"x":1}},"a":1}`, true, "PT5M", `{"terminateNotificationProfile":{"future":{"x":1},"enable":true,"notBeforeTimeout":"PT5M"},"a":1}`},
		{`{"terminateNotificationProfile":null}`, false, "", `{"terminateNotificationProfile":{"enable":false}}`},
		{`[]`, true, "PT5M", ""},
		{`{"terminateNotificationProfile":7}`, true, "PT5M", ""},
	} {
		got, err := azure.WithTermination(json.RawMessage(c.profile), c.enable, c.notBefore)
		if string(got) != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %s, %v; want %s", c.profile, got, err, c.want)
		}
	}
}

const (
	setID    = group + "/providers/Microsoft.Compute/virtualMachineScaleSets/workers"
	policyID = group + "/providers/Microsoft.Security/locations/westeurope/jitNetworkAccessPolicies/default"
	vmA, vmB = group + "/providers/Microsoft.Compute/virtualMachines/a", group + "/providers/Microsoft.Compute/virtualMachines/b"
)

func setEstate() []byte {
	return []byte(`{"resources":[{"id":"` + group + `","location":"westeurope"},
 {"id":"` + setID + `","name":"workers","location":"westeurope","tags":{"owner":"shop"},"sku":{"name":"Standard_D2s_v5","capacity":3},
  "properties":{"orchestrationMode":"Uniform","upgradePolicy":{"mode":"Manual"},"futureSet":{"a":1},
   "virtualMachineProfile":{"futureModel":7,"osProfile":{"computerNamePrefix":"w","adminUsername":"u"},"storageProfile":{},
    "scheduledEventsProfile":{"osImageNotificationProfile":{"enable":true,"notBeforeTimeout":"PT15M"}}}}},` +
		instance("0") + "," + instance("1") + "," + instance("2") + `]}`)
}

func instance(id string) string {
	return `{"id":"` + setID + `/virtualMachines/` + id + `","name":"workers_` + id + `","instanceId":"` + id + `","location":"westeurope","properties":{"latestModelApplied":true}}`
}

// A PATCH with If-Match writes the notice and nothing else; somebody else's write in between is Precondition.
func TestPatchEvents(t *testing.T) {
	s := newSim(t, sim.Config{Estate: setEstate()})
	c := simClient(t, s)
	set, err := c.ScaleSet(t.Context(), setID)
	if err != nil {
		t.Fatal(err)
	}
	e, ok := set.Events()
	if !ok || set.Etag == "" || set.Flexible() {
		t.Fatalf("set %+v", set)
	}
	stale := e
	if e.Profile, err = azure.WithTermination(e.Profile, true, "PT10M"); err != nil {
		t.Fatal(err)
	}
	if err := c.PatchEvents(t.Context(), e, nil); err != nil {
		t.Fatal(err)
	}
	body, _ := s.Get(setID)
	for _, want := range []string{`"futureSet":{"a":1}`, `"futureModel":7`, `"owner":"shop"`, `"osImageNotificationProfile":{"enable":true`, `"notBeforeTimeout":"PT10M"`} {
		if !strings.Contains(strings.ReplaceAll(string(body), " ", ""), want) {
			t.Errorf("%s is missing in %s", want, body)
		}
	}
	if stale.Profile, err = azure.WithTermination(stale.Profile, true, "PT5M"); err != nil {
		t.Fatal(err)
	}
	if err := c.PatchEvents(t.Context(), stale, nil); azure.Classify(err) != azure.Precondition {
		t.Errorf("a stale write: %v", err)
	}
	all, err := c.Instances(t.Context(), setID)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) != 3 {
		t.Fatalf("%d instances, want 3", len(all))
	}
	for _, i := range all {
		if i.Properties.LatestModelApplied == nil || *i.Properties.LatestModelApplied {
			t.Errorf("instance %s is on the model of a Manual set", i.InstanceID)
		}
		if err := c.UpgradeInstances(t.Context(), setID, []string{i.InstanceID}, nil); err != nil {
			t.Error(err)
		}
	}
	if all, err = c.Instances(t.Context(), setID); err != nil {
		t.Fatal(err)
	}
	for _, i := range all {
		if !*i.Properties.LatestModelApplied || !strings.Contains(string(i.Properties.ScheduledEventsProfile), "PT10M") {
			t.Errorf("instance %s: %s", i.InstanceID, i.Properties.ScheduledEventsProfile)
		}
	}
}

// Machines are merged into a policy; the others, its requests and what these types do not know go back as they were read.
func TestJITPolicyMachines(t *testing.T) {
	raw := `{"id":"` + policyID + `","name":"default","kind":"Basic","later":true,"properties":{"virtualMachines":[{"id":"` + strings.ToUpper(vmA) + `","ports":[],"future":1}],"requests":[{"requestor":"x"}],"provisioningState":"Succeeded","appendMode":false}}`
	var sent string
	c := newClient(t, "token", transport(recordPut(&sent, raw)))
	p, err := c.JITPolicy(t.Context(), policyID)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, ok := p.Machine(vmB); ok {
		t.Error("b is in the policy")
	}
	if got, _, ok := p.Machine(vmA); !ok || !strings.Contains(string(got), `"future":1`) {
		t.Errorf("a: %s", got)
	}
	if err := c.PutJITPolicy(t.Context(), p, p.WithMachine(vmB, json.RawMessage(`{"id":"b"}`)), nil); err != nil {
		t.Fatal(err)
	}
	want := `{"kind":"Basic","later":true,"properties":{"virtualMachines":[{"id":"` + strings.ToUpper(vmA) + `","ports":[],"future":1},{"id":"b"}],"requests":[{"requestor":"x"}],"appendMode":false}}`
	if sent != want {
		t.Errorf("sent %s\nwant %s", sent, want)
	}
	if got := p.WithMachine(vmA, nil); len(got) != 0 {
		t.Errorf("without a: %s", got)
	}
	if err := c.PutJITPolicy(t.Context(), p, nil, nil); azure.Classify(err) != azure.Invalid {
		t.Errorf("no machines at all: %v", err)
	}
}

// recordPut answers every request with one body and keeps what was sent last.
func recordPut(sent *string, body string) func(*http.Request) (*http.Response, error) {
	return func(r *http.Request) (*http.Response, error) {
		if r.Body != nil {
			b, err := io.ReadAll(r.Body)
			if err != nil {
				return nil, err
			}
			*sent = string(b)
		}
		return &http.Response{StatusCode: http.StatusOK, Header: http.Header{"Content-Type": {"application/json"}}, Body: io.NopCloser(strings.NewReader(body)), Request: r}, nil
	}
}

package estate_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan/estate"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

const (
	sub = "/subscriptions/11111111-1111-4111-8111-111111111111"
	rg  = sub + "/resourceGroups/Lab"
	net = rg + "/providers/Microsoft.Network/"
	cmp = rg + "/providers/Microsoft.Compute/virtualMachines/"
)

// P10: what is wrong with a file is said, with the place, and never a clean answer.
func TestReadBad(t *testing.T) {
	vm := `{"id":"` + cmp + `a","properties":{}}`
	for name, c := range map[string]struct{ file, want string }{
		"empty":             {"", "the file is empty"},
		"white":             {" \n\t", "the file is empty"},
		"words":             {"not json at all", `starts with no JSON value ("not")`},
		"more words":        {"the estate, as of today", `starts with no JSON value ("the")`},
		"nearly null":       {`{"resources":[nil]}`, `resource number 0 is no JSON value ("nil")`},
		"html":              {"<!DOCTYPE html>\n<html>", `starts with no JSON value ("<!DOCTYPE")`},
		"text":              {"id,name\n1,2", "starts with no JSON value"},
		"list":              {"[" + vm + "]", `must be an object {"resources": […]}, and starts with a list`},
		"number":            {"42", "starts with a number"},
		"utf-16":            {"\xff\xfe{\x00", "not UTF-8"},
		"no resources":      {`{"value":[]}`, "no list called resources"},
		"resources twice":   {`{"resources":[],"resources":[]}`, "resources stands twice"},
		"resources null":    {`{"resources":null}`, "resources is null, not a list"},
		"resources object":  {`{"resources":{}}`, "resources is an object, not a list"},
		"resource a number": {`{"resources":[` + vm + `,7]}`, "resource number 1 is a number"},
		"resource null":     {`{"resources":[null]}`, "resource number 0 is null"},
		"comma":             {`{"resources":[` + vm + `,]}`, "resource number 1 is"},
		"no comma":          {`{"resources":[` + vm + vm + `]}`, "a comma or the end of resources was expected after resource number 0"},
		"truncated list":    {`{"resources":[` + vm + `,`, "the file ends before resource number 1"},
		"truncated body":    {`{"resources":[` + vm + `,` + vm[:len(vm)-5], "the file ends in the middle of resource number 1, which starts at byte 156 (" + cmp + "a)"},
		"truncated text":    {`{"resources":[` + vm + `,{"id":"/subs`, "the file ends in the middle of resource number 1"},
		"truncated object":  {`{"resources":[` + vm + `]`, "here is the end of the file"},
		"trailing":          {`{"resources":[]} x`, "something follows after the end"},
		"two documents":     {`{"resources":[]}{"resources":[]}`, "something follows after the end of the file's object: an object"},
		"other key":         {`{"next":tru,"resources":[]}`, `the value of "next" is wrong`},
		"no id":             {`{"resources":[{"name":"x"}]}`, "resource number 0, which starts at byte 14 of the file: a resource has no id"},
		"id a number":       {`{"resources":[{"id":7}]}`, "id is a number, not a text"},
		"id no path":        {`{"resources":[{"id":"web-01"}]}`, "does not start with a slash"},
		"bad escape":        {`{"resources":[{"id":"\x"}]}`, `\x is no escape`},
		"control character": {"{\"resources\":[{\"id\":\"a\x01\"}]}", "control character"},
		"bad literal":       {`{"resources":[{"id":"/a","x":nul}]}`, "no JSON value"},
		"bad number":        {`{"resources":[{"id":"/a","x":01}]}`, "is no number"},
		"deep":              {`{"resources":[{"id":"/a","x":` + strings.Repeat("[", 100_000) + strings.Repeat("]", 100_000) + `}]}`, "nested deeper than"},
		"brackets":          {`{"resources":[{"id":"/a","x":[}]}`, "resource number 0, which starts at byte 14 of the file: resource /a is wrong at byte 16"},
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(c.file), iotest.OneByteReader(strings.NewReader(c.file)), iotest.DataErrReader(strings.NewReader(c.file))} {
				e, err := estate.Read(r)
				if err == nil || e != nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("got %v, want %s", err, c.want)
				}
			}
		})
	}
	t.Run("reader", func(t *testing.T) {
		_, err := estate.Read(io.MultiReader(strings.NewReader(`{"resources":[`+vm+`,`), iotest.ErrReader(io.ErrUnexpectedEOF)))
		if err == nil || !strings.Contains(err.Error(), "reading stopped at byte 156: unexpected EOF") {
			t.Errorf("got %v", err)
		}
	})
}

// P10: a value of a wrong kind in one resource costs that resource, and is a gap that names the field; the rest is read.
func TestSpoilt(t *testing.T) {
	for name, c := range map[string]struct{ id, body, want string }{
		"properties":        {cmp + "b", `"properties":"x"`, "properties is a text, not an object"},
		"properties a list": {net + "publicIPAddresses/p", `"properties":[]`, "properties is a list, not an object"},
		"properties twice":  {cmp + "b", `"properties":{},"properties":{}`, "properties stands twice"},
		"type":              {cmp + "b", `"type":"Microsoft.Compute/disks","properties":{}`, "says that its type is Microsoft.Compute/disks, and its id is that of microsoft.compute/virtualmachines"},
		"id":                {net + "x/b", `"type":"microsoft.compute/virtualmachines","properties":{}`, "says that its type is microsoft.compute/virtualmachines, and its id is that of microsoft.network/x"},
		"name":              {cmp + "b", `"name":5,"properties":{}`, "name is a number, not a text"},
		"location":          {cmp + "b", `"location":{"a":[1]},"properties":{}`, "location is an object, not a text"},
		"tags":              {cmp + "b", `"tags":"x","properties":{}`, "tags is a text, not an object"},
		"sku":               {net + "publicIPAddresses/p", `"sku":"Standard","properties":{}`, "sku is a text, not an object"},
		"wrong shape":       {cmp + "b", `"properties":{"networkProfile":[]}`, "networkProfile is a list, not an object"},
		"nics an object":    {cmp + "b", `"properties":{"networkProfile":{"networkInterfaces":{}}}`, "networkInterfaces is an object, not a list"},
		"a nic a text":      {cmp + "b", `"properties":{"networkProfile":{"networkInterfaces":["x"]}}`, "networkInterfaces is a text, not an object"},
		"timeout":           {cmp + "b", `"properties":{"scheduledEventsProfile":{"terminateNotificationProfile":{"enable":true,"notBeforeTimeout":10}}}`, "notBeforeTimeout is a number, not a text"},
		"enable":            {cmp + "b", `"properties":{"scheduledEventsProfile":{"terminateNotificationProfile":{"enable":"yes"}}}`, `enable is "yes", neither true nor false`},
		"enable a number":   {cmp + "b", `"properties":{"scheduledEventsProfile":{"terminateNotificationProfile":{"enable":1}}}`, "enable is a number, not true or false"},
		"priority":          {net + "networkSecurityGroups/g", `"properties":{"securityRules":[{"name":"r","properties":{"priority":1.5}}]}`, "priority is 1.5, not a whole number"},
		"priority a text":   {net + "networkSecurityGroups/g", `"properties":{"securityRules":[{"name":"r","properties":{"priority":"high"}}]}`, `priority is "high", not a number`},
		"bad port":          {net + "loadBalancers/l", `"properties":{"loadBalancingRules":[{"name":"r","properties":{"frontendPort":70000}}]}`, "frontendPort is 70000, not a port"},
		"bad prefix":        {net + "virtualNetworks/v", `"properties":{"addressSpace":{"addressPrefixes":["10.0.0.0/33"]}}`, "is no address range"},
		"admin rules":       {net + "virtualNetworks/v/networkManagerEffectiveSecurityAdminRules/default", `"properties":{}`, "no list called value"},
	} {
		t.Run(name, func(t *testing.T) {
			file := `{"resources":[{"id":"` + c.id + `",` + c.body + `},{"id":"` + cmp + `a","properties":{"networkProfile":{"networkInterfaces":[]}}}]}`
			for _, r := range []io.Reader{strings.NewReader(file), iotest.OneByteReader(strings.NewReader(file))} {
				e, err := estate.Read(r)
				if err != nil {
					t.Fatal(err)
				}
				if g := e.Gaps(); len(g) != 1 || !strings.Contains(g[0].Reason, c.want) || !strings.HasPrefix(c.id, g[0].Resource) || g[0].Resource == "" {
					t.Errorf("gaps %+v, want %s of %s", g, c.want, c.id)
				}
				if len(e.VMs()) != 1 || e.Counts().Resources != 2 {
					t.Errorf("read %d machines, %+v", len(e.VMs()), e.Counts())
				}
			}
			// The same resource, told rightly a second time, is no more certain.
			twice := strings.Replace(file, `{"resources":[`, `{"resources":[{"id":"`+c.id+`","properties":{"value":[]}},`, 1)
			e := read(t, []byte(twice))
			if len(e.VMs()) != 1 || len(e.Gaps()) != 1 || len(e.NSGs()) != 0 {
				t.Errorf("twice: %d machines, %d groups, gaps %+v", len(e.VMs()), len(e.NSGs()), e.Gaps())
			}
		})
	}
}

func TestReadGood(t *testing.T) {
	for name, file := range map[string]string{
		"empty list": `{"resources":[]}`,
		"mark":       "\xEF\xBB\xBF" + ` {"resources" : [ ] } ` + "\n",
		"other keys": `{"count":2,"a":{"b":[1,2,{"c":"}]"}]},"resources":[{"id":"/a/b","x":"\"]}"}],"z":null}`,
		"nulls":      `{"resources":[{"id":"` + cmp + `a","type":null,"name":null,"tags":null,"properties":{"networkProfile":null,"instanceView":null,"storageProfile":{"osDisk":null}}},{"id":"` + net + `networkInterfaces/n","properties":{"ipConfigurations":null,"networkSecurityGroup":null}},{"id":"` + rg + `/providers/Microsoft.Security/locations/x/jitNetworkAccessPolicies/default","properties":{"virtualMachines":null,"requests":null}}]}`,
		"unknown":    `{"resources":[{"id":"` + rg + `/providers/Contoso.Things/things/x","type":"Contoso.Things/things","properties":[1,2]},{"id":"` + sub + `"},{"id":"` + rg + `"}]}`,
	} {
		t.Run(name, func(t *testing.T) {
			for _, r := range []io.Reader{strings.NewReader(file), iotest.OneByteReader(strings.NewReader(file))} {
				if _, err := estate.Read(r); err != nil {
					t.Error(err)
				}
			}
		})
	}
	e := read(t, []byte(`{"resources":[{"id":"`+rg+`/providers/Contoso.Things/things/x"},{"id":"`+strings.ToUpper(sub)+`"},{"id":"`+cmp+`a"}]}`))
	if c := e.Counts(); c.Resources != 3 || c.Subscriptions != 1 || c.Others["contoso.things/things"] != 1 || c.Others["microsoft.resources/subscriptions"] != 1 {
		t.Errorf("got %+v", c)
	}
}

// A body of ten megabytes, and a batch that it does not fit into.
func TestReadLongRules(t *testing.T) {
	var b bytes.Buffer
	b.WriteString(`{"resources":[{"id":"` + net + `networkSecurityGroups/g","properties":{"securityRules":[`)
	for i := range 20_000 {
		if i > 0 {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, `{"name":"r%d","properties":{"priority":%d,"direction":"Inbound","access":"Allow","protocol":"Tcp","description":%q,"sourceAddressPrefix":"10.0.0.0/8","destinationAddressPrefix":"*","sourcePortRange":"*","destinationPortRange":"22"}}`, i, 100+i%3900, strings.Repeat("x", 400))
	}
	b.WriteString(`]}},{"id":"` + cmp + `a"}]}`)
	e := read(t, b.Bytes())
	if n := len(e.NSGs()[0].Rules); n != 20_000 {
		t.Errorf("got %d rules", n)
	}
}

// The decoder against the standard library: what one takes the other takes, and the reverse.
func FuzzAdd(f *testing.F) {
	var file struct{ Resources []json.RawMessage }
	if err := json.Unmarshal(estates.Demo(), &file); err != nil {
		f.Fatal(err)
	}
	for i, r := range file.Resources {
		if i%7 == 0 {
			f.Add([]byte(r))
		}
	}
	f.Add([]byte(`{"id":"/a","x":[1.5e3,-0,"\ud83d\ude00\u00e9",true,null]}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		b := estate.NewBuilder()
		err := b.Add(body)
		if err == nil && !json.Valid(body) {
			t.Errorf("%q is no JSON, and was added", body)
		}
		if err != nil && json.Valid(body) && strings.Contains(err.Error(), "no JSON value") {
			t.Errorf("%q is JSON: %v", body, err)
		}
		e := b.Build()
		for _, v := range e.VMs() {
			e.Ways(v, netsec.TCP, 22)
		}
	})
}

// Any file: no crash, the same answer however it is cut, and an error or a whole estate.
func FuzzRead(f *testing.F) {
	f.Add([]byte(`{"resources":[{"id":"` + cmp + `a","properties":{"networkProfile":{"networkInterfaces":[{"id":"` + net + `networkInterfaces/n"}]}}}]}`))
	f.Add(append([]byte("\xEF\xBB\xBF"), `{"a":"\"","resources":[{"id":"/x"}],"b":[{}]}`...))
	f.Add([]byte(`{"resources":[{"id":"/x"},`))
	f.Fuzz(func(t *testing.T, file []byte) {
		e, err := estate.Read(bytes.NewReader(file))
		_, slow := estate.Read(iotest.OneByteReader(bytes.NewReader(file)))
		if fmt.Sprint(err) != fmt.Sprint(slow) {
			t.Errorf("whole: %v; byte by byte: %v", err, slow)
		}
		if (e == nil) == (err == nil) {
			t.Errorf("got %v, %v", e, err)
		}
		if err == nil && !json.Valid(bytes.TrimPrefix(file, []byte("\xEF\xBB\xBF"))) {
			t.Errorf("%q is no JSON, and was read", file)
		}
	})
}

// Whatever stands in the fields that decide, Reach and Path agree, and what is not understood is unknown where it could matter.
func FuzzWays(f *testing.F) {
	f.Add("Allow", "Internet", "*", "22", "Tcp", 100, "10.0.0.4", "Tcp", 22, 22)
	f.Add("deny", "203.0.113.0/24", "10.0.0.4", "20-30", "*", 4096, "fd00::4", "All", 0, 0)
	f.Add("", "Sql.WestEurope", "VirtualNetwork", "x", "udp", -1, "10.0.0.300", "??", 50000, 22)
	f.Fuzz(func(t *testing.T, access, src, dst, port, proto string, prio int, addr, lbProto string, front, back int) {
		w := basic()
		r := rule("r", prio, access, src, dst, port)
		r["properties"].(m)["protocol"] = proto
		w.props(net + "networkSecurityGroups/g")["securityRules"] = l{r}
		c := config(addr, "p")
		c["name"] = "c"
		w.props(net + "networkInterfaces/n")["ipConfigurations"] = l{c}
		w.add(net+"loadBalancers/b", m{"frontendIPConfigurations": l{m{"name": "f", "properties": m{"publicIPAddress": ref(net + "publicIPAddresses/p")}}},
			"inboundNatRules": l{m{"name": "r", "properties": m{"frontendIPConfiguration": ref(net + "loadBalancers/b/frontendIPConfigurations/f"), "backendIPConfiguration": ref(net + "networkInterfaces/n/ipConfigurations/c"),
				"protocol": lbProto, "frontendPort": front, "backendPort": back}}}})
		e, err := estate.Read(bytes.NewReader(w.file()))
		if err != nil {
			return
		}
		v := find(t, e, "a")
		if a, err := netip.ParseAddr(strings.TrimSpace(addr)); (err != nil || a.Zone() != "") && len(v.Problems) == 0 {
			t.Errorf("address %q is no problem", addr)
		}
		for _, x := range e.Ways(v, netsec.TCP, 22) {
			for _, s := range []string{"203.0.113.9", "8.8.8.8", "2600::1"} {
				a := netip.MustParseAddr(s)
				if !x.Dest.IsValid() || a.Is4() != x.Dest.Is4() || len(x.Reach.Internet.Tags)+len(x.Reach.Internet.UnknownTags) > 0 {
					continue
				}
				got := x.Path.Decide(netsec.Packet{Src: a, Dst: x.Dest, SrcPort: 50000, DstPort: 22, Protocol: netsec.TCP, Inbound: true}).Access
				z := x.Reach.Internet
				if got == netsec.Allow != z.Allowed.Contains(a) || got == netsec.Unknown != z.Unknown.Contains(a) {
					t.Errorf("%s to %s: Path says %s, Reach allows %v, may allow %v", a, x.Dest, got, z.Allowed.Contains(a), z.Unknown.Contains(a))
				}
			}
		}
	})
}

// P10: what neither its type nor its id tells apart may be anything, and is not passed over.
func TestNobodyKnowsWhatItIs(t *testing.T) {
	for name, c := range map[string]struct{ resource, want string }{
		"type a number": {`{"id":"/x","type":7}`, "type is a number"},
		"no type":       {`{"id":"/x"}`, "neither its type nor its id"},
	} {
		e := read(t, []byte(`{"resources":[`+c.resource+`]}`))
		if g := e.Gaps(); len(g) != 1 || g[0].Resource != "/x" || !strings.Contains(g[0].Reason, c.want) {
			t.Errorf("%s: gaps %+v", name, g)
		}
	}
	if g := read(t, []byte(`{"resources":[{"id":"/subscriptions/s/resourceGroups/g/providers/Acme.Things/things/t"}]}`)).Gaps(); len(g) != 0 {
		t.Errorf("a type of which nothing is needed: gaps %+v", g)
	}
}

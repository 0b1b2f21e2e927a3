package sim_test

import (
	"bytes"
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/curfew-jit/curfew/internal/sim"
	"github.com/curfew-jit/curfew/internal/sim/estates"
)

// asJSON is what encoding/json reads and writes, numbers as they stand, keys sorted, HTML not escaped.
func asJSON(in []byte) ([]byte, map[string]any, error) {
	dec := json.NewDecoder(bytes.NewReader(in))
	dec.UseNumber()
	var m map[string]any
	if err := dec.Decode(&m); err != nil {
		return nil, nil, err
	}
	if _, err := dec.Token(); err != io.EOF {
		return nil, nil, os.ErrInvalid
	}
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	err := enc.Encode(m)
	return bytes.TrimSuffix(buf.Bytes(), []byte("\n")), m, err
}

func sameTree(t *testing.T, in []byte) {
	t.Helper()
	want, tree, err := asJSON(in)
	if err != nil || tree == nil {
		return // only valid objects are asked
	}
	got, back, err := sim.Tree(in)
	if err != nil || !bytes.Equal(got, want) || !reflect.DeepEqual(back, tree) {
		t.Fatalf("%s: got %s, %v; want %s", in, got, err, want)
	}
}

// Bodies are packed and unpacked by code of our own: it gives byte for byte what encoding/json does.
func TestTree(t *testing.T) {
	for _, in := range []string{`{}`, ` { "a" : [ ] , "b":{ } } `, `{"a":null,"b":true,"c":false,"d":-1.5e+30,"e":0,"f":00}`, `{"ü":"ß\n\u0000","q":"\"\\\/","s":"\ud83d\ude00","bad":"\ud800"}`,
		`{"<&>":"<&>","\u2028":"\u2028"}`, `{"b":1,"a":2,"a":3}`, "{\"x\":\"\xff\xfe\"}", `{"n":123456789012345678901234567890,"m":0.10,"k":1e5,"":"","ab":"","ba":""}`, `{"deep":[[[[{"a":[1,"2",null]}]]]]}`} {
		sameTree(t, []byte(in))
	}
	for _, in := range []string{``, `[]`, `null`, `{`, `{"a"`, `{"a":`, `{"a":}`, `{"a":1,}`, `{} x`, `{"a":"`, `{"a":"\`, `{"a":tru}`} {
		if _, _, err := sim.Tree([]byte(in)); err == nil {
			t.Errorf("%q was taken", in)
		}
	}
	sameTree(t, estates.Demo())
	if shared := os.Getenv("CURFEW_SHARED"); shared != "" {
		files, _ := filepath.Glob(filepath.Join(shared, "azure/specs/network/resource-manager/Microsoft.Network/stable/*/examples/*.json"))
		for _, f := range files {
			data, err := os.ReadFile(f)
			if err != nil {
				t.Fatal(err)
			}
			sameTree(t, data)
		}
	}
}

func FuzzTree(f *testing.F) {
	for _, s := range []string{`{"a":["b",1,null,true,{"c":"\u00e9\\"}]}`, `{"ab":"x","ba":"y","n":-0.5e-7}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) { sameTree(t, in) })
}

// An estate that is wrong in the middle leaves everything as it was, and says where.
func TestLoadStopsInTheMiddle(t *testing.T) {
	a := newAz(t, sim.Config{})
	before := a.s.Dump()
	var b strings.Builder
	b.WriteString(`{"resources":[`)
	for range 500 {
		b.WriteString(`{"id":"/subscriptions/` + estates.DemoShop + `/resourceGroups/g"},`)
	}
	for _, end := range []string{`]}`, `{"id":"nonsense"}]}`, `{"id":7`, `"x"]}`} {
		if err := a.s.Load([]byte(b.String() + end)); err == nil {
			t.Errorf("%q was loaded", end)
		}
	}
	if !bytes.Equal(before, a.s.Dump()) {
		t.Error("the estate has changed")
	}
}

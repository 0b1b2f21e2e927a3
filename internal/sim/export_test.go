package sim

import (
	"encoding/json"
	"strings"
)

// SmallCaches lets simulators that are made until the end of a test keep almost nothing unpacked.
func SmallCaches(cleanup func(func())) {
	l, r, d := liveKept, rawKept, decodedKept
	liveKept, rawKept, decodedKept = 2, 2, 2
	cleanup(func() { liveKept, rawKept, decodedKept = l, r, d })
}

// CompareGraphText holds the text of every field that a query may name against the tree's: of properties two levels deep.
func (s *Sim) CompareGraphText() (compared int, differ []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.orderedLocked() {
		rw := row{table: s.graphTableLocked(view{}), res: r}
		try := func(column string, steps ...string) {
			text, ok := s.graphTextLocked(nil, r, column, steps)
			if !ok {
				return
			}
			compared++
			v := rw.get(column)
			for _, st := range steps {
				m, _ := v.(map[string]any)
				v = m[st]
			}
			got, err := decodeAny(text)
			want, _ := decodeAny(mustJSON(v))
			if err != nil || string(mustJSON(got)) != string(mustJSON(want)) {
				differ = append(differ, r.id+" "+column+" "+strings.Join(steps, ".")+": "+string(text)+" but "+string(mustJSON(v)))
			}
		}
		for _, c := range tableColumns {
			try(c)
		}
		props, _ := rw.get("properties").(map[string]any)
		for name, v := range props {
			try("properties", name)
			if m, ok := v.(map[string]any); ok {
				for inner := range m {
					try("properties", name, inner)
				}
			}
		}
		for _, name := range []string{"nothing", "instanceView", "extended", "virtualMachine", "ipConfiguration"} {
			try("properties", name)
			try("properties", name, "nothing")
		}
	}
	return compared, differ
}

func decodeAny(b []byte) (any, error) {
	var v any
	err := json.Unmarshal(b, &v)
	return v, err
}

// Tree encodes and decodes as bodies are packed and unpacked.
func Tree(in []byte) (out []byte, back map[string]any, err error) {
	m, err := decodeTree(in)
	if err != nil {
		return nil, nil, err
	}
	out, err = appendTree(nil, m)
	return out, m, err
}

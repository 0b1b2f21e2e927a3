package sim

import "fmt"

// A large estate is mostly text that nobody looks at: decoded, a machine takes fifteen times the room of its JSON. So the body of a
// resource lies packed as JSON, and is a tree (and rendered, and a tree for queries) only while it is among those last used.
var ( // variables for the tests alone
	liveKept    = 8192  // bodies as trees
	rawKept     = 32768 // rendered bodies
	decodedKept = 4096  // trees for queries
)

// ring remembers the resources that hold something, and makes the one used longest ago let go of it.
type ring struct {
	slots []*resource
	size  int
	at    int
	drop  func(*resource)
}

func (g *ring) add(r *resource) {
	if len(g.slots) < g.size {
		g.slots = append(g.slots, r)
		return
	}
	if old := g.slots[g.at]; old != r {
		g.drop(old)
	}
	g.slots[g.at] = r
	if g.at++; g.at == g.size {
		g.at = 0
	}
}

// caches of one world.
type caches struct{ live, raw, decoded ring }

func newCaches() *caches {
	return &caches{
		live: ring{size: liveKept, drop: func(r *resource) {
			if r.packed == nil && r.live != nil {
				r.packed = fit(mustJSON(r.live))
			}
			r.live = nil
		}},
		raw:     ring{size: rawKept, drop: func(r *resource) { r.raw = nil }},
		decoded: ring{size: decodedKept, drop: func(r *resource) { r.decoded = nil }},
	}
}

// doc is the body as a tree, nil where there is none yet. What a caller changes in it may be forgotten: setDoc is for changes.
func (r *resource) doc() map[string]any {
	if r.live == nil && r.packed != nil {
		m, err := decodeTree(r.packed)
		if err != nil {
			panic(fmt.Sprintf("sim: %s was packed badly: %v", r.id, err)) // only what mustJSON made gets here
		}
		r.live = m
		r.caches.live.add(r)
	}
	return r.live
}

func (r *resource) setDoc(body map[string]any) {
	r.live, r.packed = body, nil
	if r.caches != nil {
		r.caches.live.add(r)
	}
	r.dirty()
}

func (r *resource) keepRaw(raw []byte) []byte {
	if r.raw = fit(raw); r.caches != nil {
		r.caches.raw.add(r)
	}
	return r.raw
}

// fit is b without the room that it grew into.
func fit(b []byte) []byte { return append(make([]byte, 0, len(b)), b...) }

package estate

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"net/netip"
	"strings"
	"sync"
	"unicode/utf8"
)

// key stands for an id, whatever its case. 0 is none. Keys of one idTable alone are comparable.
type key uint32

// idTable numbers ids without regard to case, and keeps one spelling of each: of 100,000 machines half a million ids are named a
// million times. It is divided so that decoders seldom wait for one another.
type idTable struct{ shards [shards]idShard }

const (
	shards    = 16
	shardBits = 4
)

type idShard struct {
	mu    sync.Mutex
	ids   []string // by number; 0 is not used
	slots []slot   // open addressing by hash
}

// slot holds a number, 0 where it is free, and the hash of its id, so that ids are seldom compared.
type slot struct{ hash, n uint32 }

func newIDTable() *idTable {
	t := &idTable{}
	for i := range t.shards {
		t.shards[i].ids = make([]string, 1)
		t.shards[i].slots = make([]slot, 64)
	}
	return t
}

// plainID takes away what may follow or precede an id without changing it.
func plainID(id []byte) []byte {
	id = bytes.TrimSpace(id)
	for len(id) > 1 && id[len(id)-1] == '/' {
		id = id[:len(id)-1]
	}
	return id
}

// of returns the key of an id.
func (t *idTable) of(id []byte) key {
	if id = plainID(id); len(id) == 0 {
		return 0
	}
	h := foldedHash(id)
	s := &t.shards[h%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	at, found := s.find(h, id)
	if found == 0 {
		found = uint32(len(s.ids))
		s.ids = append(s.ids, string(id))
		s.slots[at] = slot{uint32(h >> 32), found}
		if 2*len(s.ids) > len(s.slots) {
			s.grow()
		}
	}
	return key(found<<shardBits | uint32(h%shards))
}

// look is of for an id that need not be there: 0 then.
func (t *idTable) look(id string) key {
	b := plainID([]byte(id))
	if len(b) == 0 {
		return 0
	}
	h := foldedHash(b)
	s := &t.shards[h%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, found := s.find(h, b); found != 0 {
		return key(found<<shardBits | uint32(h%shards))
	}
	return 0
}

// text returns the id as it was spelt first.
func (t *idTable) text(k key) string {
	if k == 0 {
		return ""
	}
	s := &t.shards[k%shards]
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.ids[k>>shardBits]
}

func (s *idShard) find(h uint64, id []byte) (at int, found uint32) {
	mask := len(s.slots) - 1
	for at = int(h>>32) & mask; s.slots[at].n != 0; at = (at + 1) & mask {
		if s.slots[at].hash == uint32(h>>32) && sameID(s.ids[s.slots[at].n], id) {
			return at, s.slots[at].n
		}
	}
	return at, 0
}

func (s *idShard) grow() {
	old := s.slots
	s.slots = make([]slot, 2*len(old))
	mask := len(s.slots) - 1
	for _, x := range old {
		if x.n == 0 {
			continue
		}
		at := int(x.hash) & mask
		for s.slots[at].n != 0 {
			at = (at + 1) & mask
		}
		s.slots[at] = x
	}
}

// foldedHash takes eight bytes at a time. Setting the bit 0x20 folds the case of letters, and makes some other bytes alike, which a
// hash may.
func foldedHash(id []byte) uint64 {
	const fold, high, prime = 0x2020202020202020, 0x8080808080808080, 0x9E3779B97F4A7C15
	h, some := uint64(len(id)), uint64(0)
	b := id
	for ; len(b) >= 8; b = b[8:] {
		w := binary.LittleEndian.Uint64(b)
		some |= w
		h = bits.RotateLeft64((h^(w|fold))*prime, 29)
	}
	for _, c := range b {
		some |= uint64(c)
		h = bits.RotateLeft64((h^uint64(c|0x20))*prime, 29)
	}
	if some&high != 0 {
		if low := bytes.ToLower(id); !bytes.Equal(low, id) {
			return foldedHash(low)
		}
	}
	return h ^ h>>32
}

func lower(c byte) byte {
	if 'A' <= c && c <= 'Z' {
		return c + 'a' - 'A'
	}
	return c
}

func sameID(a string, b []byte) bool {
	if len(a) != len(b) {
		return !ascii(a) && strings.ToLower(a) == strings.ToLower(string(b))
	}
	for i := len(a) - 1; i >= 0; i-- { // ids of one group differ at the end
		if a[i] != b[i] {
			if a[i] >= utf8.RuneSelf || b[i] >= utf8.RuneSelf {
				return strings.ToLower(a) == strings.ToLower(string(b))
			}
			if lower(a[i]) != lower(b[i]) {
				return false
			}
		}
	}
	return true
}

func ascii(s string) bool {
	for i := range len(s) {
		if s[i] >= utf8.RuneSelf {
			return false
		}
	}
	return true
}

// compareIDs orders ids without regard to case.
func compareIDs(a, b string) int {
	i, n := 0, min(len(a), len(b))
	for i+16 <= n && a[i:i+16] == b[i:i+16] {
		i += 16
	}
	for ; i < n; i++ {
		if x, y := lower(a[i]), lower(b[i]); x != y {
			return int(x) - int(y)
		}
	}
	return len(a) - len(b)
}

// parent returns the id of the resource that a child is part of: without its last type and name.
func parent(id string) string {
	for range 2 {
		i := strings.LastIndexByte(id, '/')
		if i <= 0 {
			return ""
		}
		id = id[:i]
	}
	return id
}

func lastName(id string) string { return id[strings.LastIndexByte(id, '/')+1:] }

// idType returns the full type that an id says, in lower case: "microsoft.network/virtualnetworks/subnets". A subscription and a
// resource group have types of Microsoft.Resources.
func idType(id string) string { return string(appendType(nil, id)) }

// appendType is idType without new memory.
func appendType(out []byte, id string) []byte {
	at := -1
	for i := 0; i+len("/providers/") <= len(id); i++ {
		if id[i] == '/' && strings.EqualFold(id[i:i+len("/providers/")], "/providers/") {
			at = i + len("/providers/")
		}
	}
	if at < 0 {
		switch strings.Count(id, "/") {
		case 2:
			if strings.EqualFold(id[:min(len(id), 15)], "/subscriptions/") {
				return append(out, "microsoft.resources/subscriptions"...)
			}
		case 4:
			return append(out, "microsoft.resources/resourcegroups"...)
		}
		return out
	}
	for n := 0; at <= len(id); n++ {
		end := strings.IndexByte(id[at:], '/')
		if end < 0 {
			end = len(id) - at
		}
		if n == 0 || n%2 == 1 {
			if n > 0 {
				out = append(out, '/')
			}
			for _, c := range []byte(id[at : at+end]) {
				out = append(out, lower(c))
			}
		}
		at += end + 1
	}
	return out
}

// metaOf divides an id.
func metaOf(id string) Meta {
	m := Meta{ID: id, Name: lastName(id)}
	rest, ok := cutFold(id, "/subscriptions/")
	if !ok {
		return m
	}
	end := strings.IndexByte(rest, '/')
	if end < 0 {
		m.Subscription = rest
		return m
	}
	m.Subscription = rest[:end]
	if rest, ok = cutFold(rest[end:], "/resourcegroups/"); ok {
		m.Group, _, _ = strings.Cut(rest, "/")
	}
	return m
}

func cutFold(s, prefix string) (string, bool) {
	if len(s) < len(prefix) || !strings.EqualFold(s[:len(prefix)], prefix) {
		return s, false
	}
	return s[len(prefix):], true
}

func parseAddr(s string) netip.Addr {
	a, err := netip.ParseAddr(strings.TrimSpace(s))
	if err != nil || a.Zone() != "" {
		return netip.Addr{}
	}
	return a.Unmap()
}

// idType is idType for bytes, without new memory where the type is known.
func (d *decoder) idType(id []byte) string {
	d.typ = appendType(d.typ[:0], string(id))
	return d.keep(d.typ)
}

// lower returns a word in lower case.
func (d *decoder) lower(word string) string {
	if s, ok := d.lows[word]; ok {
		return s
	}
	s := strings.ToLower(word)
	if len(d.lows) < maxWords {
		d.lows[strings.Clone(word)] = s
	}
	return s
}

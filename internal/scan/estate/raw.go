package estate

import (
	"net/netip"
	"reflect"
	"strings"
	"sync"

	"github.com/curfew-jit/curfew/internal/netsec"
)

// What bodies say, reduced to what decides. References are keys. These types are compared whole when an id comes twice.

// common is what all bodies have.
type common struct {
	id  string // as it is spelt there
	key key
	// twice is set when the id came again with other content: which of them holds is not known.
	twice bool
	// bare is set when the body came without properties: it names something of which nothing was read.
	bare bool
}

func (c *common) head() *common { return c }

type rawVM struct {
	common
	vm       *VM
	scaleSet key
	nics     []key
	listed   bool // the list of interfaces was there, empty or not
}

type rawNIC struct {
	common
	nsg     key
	configs []rawConfig
}

type rawConfig struct {
	id                key
	addr              netip.Addr
	badAddr           string // what is said and is no address
	subnet, pip       key
	asgs, pools, nats []key
}

type rawVNet struct {
	common
	prefixes []netip.Prefix
	subnets  []rawSubnet
	peers    []rawPeer
}

type rawPeer struct {
	remote     key
	prefixes   []netip.Prefix
	connected  bool
	noAccess   bool // allowVirtualNetworkAccess is false
	useGateway bool // useRemoteGateways
}

type rawSubnet struct {
	id, vnet, nsg, routes key
	prefixes              []netip.Prefix
	contested             bool
}

type rawNSG struct {
	common
	nsg           *NSG
	nics, subnets []key
}

type rawPIP struct {
	common
	sku  string
	addr netip.Addr
}

type rawLB struct {
	common
	sku    string
	absent bool // only parts of it were read
	fronts []rawFront
	pools  []rawPool
	rules  []rawLBRule // rules, NAT rules and NAT pools
}

type rawFront struct {
	id, pip, subnet key
	addr            netip.Addr // private
}

type rawPool struct {
	id      key
	vnet    key // of addresses that name none
	configs []key
	addrs   []poolAddr
}

type poolAddr struct {
	vnet key // 0 where it is not said
	addr netip.Addr
}

type rawLBRule struct {
	id, front   key
	nat, ranged bool  // an inbound NAT rule; one of a range of ports, of which a machine has one
	pools       []key // of a rule, and of NAT of a pool
	config      key   // of a NAT rule
	proto       netsec.Protocol
	badProto    string
	first, last uint16 // frontend ports; 0 is every one
	from, to    uint16 // a range as it is spelt
	backend     uint16
	floating    bool
}

type rawSet struct {
	common
	set *ScaleSet
}

type rawInstance struct {
	common
	set key
	Instance
}

type rawJIT struct {
	common
	policy *JITPolicy
}

type rawAdmin struct {
	common
	rules   []netsec.AdminRule
	partial bool // the call's answer goes on where it was cut
}

type rawBastion struct {
	common
	subnets []key
}

// table holds the resources of one type.
type table[T any] struct {
	mu sync.Mutex
	m  map[key]*T
}

type headed interface{ head() *common }

// described is a resource of which everything is told.
type described interface{ meta() *Meta }

func (v *rawVM) meta() *Meta  { return &v.vm.Meta }
func (v *rawNSG) meta() *Meta { return &v.nsg.Meta }
func (v *rawSet) meta() *Meta { return &v.set.Meta }
func (v *rawJIT) meta() *Meta { return &v.policy.Meta }

// put adds a resource. One that is there already must say the same: ids differ in case, contents may not.
func (t *table[T]) put(v *T) {
	h := any(v).(headed).head()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.m == nil {
		t.m = map[key]*T{}
	}
	old := t.m[h.key]
	if old == nil {
		t.m[h.key] = v
		return
	}
	if o := any(old).(headed).head(); !o.twice {
		o.twice = !same(old, v)
	}
}

func (t *table[T]) drop(k key) { delete(t.m, k) }

// same compares contents without the spelling of the id.
func same[T any](a, b *T) bool {
	x, y := *a, *b
	var metas [2]Meta
	for i, v := range []any{&x, &y} {
		h := v.(headed).head()
		h.id, h.twice = "", false
		if d, ok := v.(described); ok {
			m := d.meta()
			metas[i] = *m
			*m = Meta{Location: strings.ToLower(m.Location), ManagedBy: strings.ToLower(m.ManagedBy), Tags: m.Tags}
		}
	}
	eq := reflect.DeepEqual(x, y)
	for i, v := range []any{&x, &y} {
		if d, ok := v.(described); ok {
			*d.meta() = metas[i]
		}
	}
	return eq
}

// get returns a resource, nil when there is none.
func (t *table[T]) get(k key) *T { return t.m[k] }

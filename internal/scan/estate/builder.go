package estate

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
)

// kind is a type of resources that decides something.
type kind uint8

const (
	kindOther kind = iota
	kindVM
	kindNIC
	kindSetNIC
	kindVNet
	kindSubnet
	kindNSG
	kindRule
	kindPIP
	kindLB
	kindBastion
	kindSet
	kindInstance
	kindJIT
	kindAdmin
)

// The types that decide something, in lower case.
const (
	typeVM       = "microsoft.compute/virtualmachines"
	typeNIC      = "microsoft.network/networkinterfaces"
	typeVNet     = "microsoft.network/virtualnetworks"
	typeNSG      = "microsoft.network/networksecuritygroups"
	typePIP      = "microsoft.network/publicipaddresses"
	typeLB       = "microsoft.network/loadbalancers"
	typeSet      = "microsoft.compute/virtualmachinescalesets"
	typeInstance = "microsoft.compute/virtualmachinescalesets/virtualmachines"
	typeJIT      = "microsoft.security/locations/jitnetworkaccesspolicies"
	typeAdmin    = "microsoft.network/virtualnetworks/networkmanagereffectivesecurityadminrules"
)

var kinds = map[string]kind{
	typeVM:                              kindVM,
	typeNIC:                             kindNIC,
	typeInstance + "/networkinterfaces": kindSetNIC,
	typeVNet:                            kindVNet,
	typeVNet + "/subnets":               kindSubnet,
	typeNSG:                             kindNSG,
	typeNSG + "/securityrules":          kindRule,
	typePIP:                             kindPIP,
	typeLB:                              kindLB,
	"microsoft.network/bastionhosts":    kindBastion,
	typeSet:                             kindSet,
	typeInstance:                        kindInstance,
	typeJIT:                             kindJIT,
	typeAdmin:                           kindAdmin,
}

// Builder gathers bodies and makes an Estate of them. Its methods may be called concurrently.
type Builder struct {
	ids  *idTable
	pool sync.Pool // of *decoder

	vms       table[rawVM]
	nics      table[rawNIC]
	vnets     table[rawVNet]
	subnets   table[rawSubnetBody]
	nsgs      table[rawNSG]
	rules     table[rawRuleBody]
	pips      table[rawPIP]
	lbs       table[rawLB]
	bastions  table[rawBastion]
	sets      table[rawSet]
	instances table[rawInstance]
	jits      table[rawJIT]
	admins    table[rawAdmin]

	resources atomic.Int64
	mu        sync.Mutex
	gaps      []Gap
	others    map[string]int
	subs      map[string]bool
}

// NewBuilder returns an empty Builder.
func NewBuilder() *Builder {
	b := &Builder{ids: newIDTable(), others: map[string]int{}, subs: map[string]bool{}}
	b.pool.New = func() any {
		return &decoder{words: map[string]string{}, lists: map[string][]string{}, ids: b.ids}
	}
	return b
}

// Add takes one ARM body, as a GET or Resource Graph returns it. The type is read from the body, or from the id where the body has
// none. Types that decide nothing are counted and passed over. A body that is no JSON object, has no id, or whose shape is not that of
// its type is an error that names it and says where; nothing of it is kept. A resource that comes twice with the same content counts
// once; with other content it is a Problem of what depends on it. The body is not kept.
func (b *Builder) Add(body []byte) error {
	d := b.pool.Get().(*decoder)
	defer b.pool.Put(d)
	return b.add(d, body)
}

func (b *Builder) add(d *decoder, body []byte) error {
	d.reset(body)
	defer d.reset(nil)
	var o outline
	d.outline(&o)
	if d.err != nil {
		return faultOf(o.id, d.err)
	}
	o.id = string(plainID([]byte(o.id)))
	if o.id == "" {
		return errors.New("a resource has no id")
	}
	if o.id[0] != '/' {
		return fmt.Errorf("the id %q of a resource does not start with a slash", clip([]byte(o.id)))
	}
	saysID, says := idType(o.id), strings.ToLower(o.typ)
	if says == "" {
		says = saysID
	}
	t := kinds[says]
	// A machine is not passed over because its type is misspelt, nor read as something else.
	if by := kinds[saysID]; by != t && (t != kindAdmin || by != kindVNet) {
		return fmt.Errorf("resource %s says that its type is %s, and its id is that of %s", o.id, o.typ, saysID)
	}
	b.resources.Add(1)
	c := common{meta: metaOf(o.id)}
	b.count(t, says, c.meta.Subscription)
	if t == kindOther {
		return nil
	}
	c.key = d.ids.of([]byte(o.id))
	if text := d.ids.text(c.key); text == o.id {
		c.meta = metaOf(text) // one copy of the id serves all
	}
	if strings.EqualFold(o.name, c.meta.Name) && o.name != c.meta.Name {
		c.meta.Name = o.name
	}
	c.meta.Location, c.meta.ManagedBy, c.meta.Tags = o.location, o.managedBy, o.tags
	b.decode(d, &o, t, c)
	if d.err != nil {
		return faultOf(o.id, d.err)
	}
	return nil
}

func (b *Builder) count(t kind, typ, subscription string) {
	if t != kindOther && subscription == "" {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if t == kindOther {
		if len(b.others) < 1000 || b.others[typ] > 0 {
			b.others[typ]++
		}
	}
	if subscription != "" && !b.subs[subscription] {
		b.subs[strings.ToLower(subscription)] = true
		if len(b.subs) < 10000 { // other spellings, so that lower case is not made each time
			b.subs[strings.Clone(subscription)] = true
		}
	}
}

// Hide records what could not be read. What it hides is then unknown and never absent (promise P10).
func (b *Builder) Hide(g Gap) {
	g.Type = strings.ToLower(g.Type)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.gaps = append(b.gaps, g)
}

// Build joins what was added. The Builder must not be used afterwards.
func (b *Builder) Build() *Estate {
	slices.SortFunc(b.gaps, func(x, y Gap) int {
		return cmp.Or(cmp.Compare(x.Source, y.Source), cmp.Compare(x.Subscription, y.Subscription), cmp.Compare(x.Resource, y.Resource),
			cmp.Compare(x.Type, y.Type), cmp.Compare(x.Reason, y.Reason))
	})
	b.gaps = slices.Compact(b.gaps)
	subs := 0
	for s := range b.subs {
		if strings.ToLower(s) == s {
			subs++
		}
	}
	e := &Estate{b: b, gaps: b.gaps, counts: Counts{Resources: int(b.resources.Load()), Subscriptions: subs, Others: b.others}}
	e.join()
	return e
}

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
	kindLBPart
	kindBastion
	kindSet
	kindInstance
	kindJIT
	kindAdmin
	kindFirewall
	kindPolicy
	kindCollections
	kindIPGroup
	kindRoutes
	kindGateway
	kindLocal
	kindConnection
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
	typeLBPool:                          kindLBPart,
	typeLBFront:                         kindLBPart,
	typeLBRule:                          kindLBPart,
	typeLBNAT:                           kindLBPart,
	"microsoft.network/bastionhosts":    kindBastion,
	typeSet:                             kindSet,
	typeInstance:                        kindInstance,
	typeJIT:                             kindJIT,
	typeAdmin:                           kindAdmin,
	typeFirewall:                        kindFirewall,
	typePolicy:                          kindPolicy,
	typeCollections:                     kindCollections,
	typeIPGroup:                         kindIPGroup,
	typeRoutes:                          kindRoutes,
	typeGateway:                         kindGateway,
	typeLocal:                           kindLocal,
	typeConnection:                      kindConnection,
}

// keptBare are the types that are judged although a body of them came without properties. They are unknown then (promise P10). An
// instance without properties does not say whether it is on the latest model, and rules without fields match nothing for certain.
var keptBare = map[kind]bool{kindVM: true, kindNSG: true, kindSet: true, kindJIT: true, kindRule: true, kindInstance: true}

// Builder gathers bodies and makes an Estate of them. Its methods may be called concurrently.
type Builder struct {
	ids  *idTable
	pool sync.Pool // of *decoder

	vms         table[rawVM]
	nics        table[rawNIC]
	vnets       table[rawVNet]
	subnets     table[rawSubnetBody]
	nsgs        table[rawNSG]
	rules       table[rawRuleBody]
	pips        table[rawPIP]
	lbs         table[rawLB]
	lbParts     table[rawLBPart]
	bastions    table[rawBastion]
	sets        table[rawSet]
	instances   table[rawInstance]
	jits        table[rawJIT]
	admins      table[rawAdmin]
	firewalls   table[rawFirewall]
	policies    table[rawPolicy]
	collections table[rawCollections]
	ipGroups    table[rawIPGroup]
	routes      table[rawRoutes]
	gateways    table[rawGateway]
	locals      table[rawLocal]
	connections table[rawConnection]

	resources atomic.Int64
	mu        sync.Mutex
	gaps      []Gap
	spoilt    map[key]spoilt
	others    map[string]int
	subs      map[string]bool
}

// NewBuilder returns an empty Builder.
func NewBuilder() *Builder {
	b := &Builder{ids: newIDTable(), others: map[string]int{}, subs: map[string]bool{}, spoilt: map[key]spoilt{}}
	b.pool.New = func() any {
		return &decoder{words: map[string]string{}, lists: map[string][]string{}, tags: map[string]map[string]string{},
			subs: map[string]bool{}, lows: map[string]string{}, ids: b.ids}
	}
	return b
}

// Add takes one ARM body, as a GET or Resource Graph returns it. The type is read from the body, or from the id where the body has
// none. Types that decide nothing are counted and passed over. A body that is no JSON object or has no id is an error that names it and
// says where; nothing of it is kept. One whose shape is not that of its type is a Gap that names the field. A resource that comes twice with the same content counts
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
		return faultOf(string(o.id), d.err)
	}
	if len(o.id) == 0 {
		if d.wrong != nil {
			return faultOf("", d.wrong)
		}
		return errors.New("a resource has no id")
	}
	if o.id[0] != '/' {
		return fmt.Errorf("the id %q of a resource does not start with a slash", clip(o.id))
	}
	saysID := d.idType(o.id)
	says := saysID
	if o.typ != "" {
		says = d.lower(o.typ)
	}
	t := kinds[says]
	// A machine is not passed over because its type is misspelt, nor read as something else.
	if by := kinds[saysID]; by != t && (t != kindAdmin || by != kindVNet) {
		d.wrong = &syntaxError{0, fmt.Sprintf("it says that its type is %s, and its id is that of %s", o.typ, saysID)}
		if t == kindOther {
			t, says = by, saysID
		}
	}
	b.resources.Add(1)
	b.count(d, t, says, o.id)
	if t == kindOther {
		if says == "" { // it may be anything that decides: it is not passed over (P10)
			g := Gap{Source: "the body of a resource", Resource: string(o.id), Reason: "neither its type nor its id says what it is"}
			if d.wrong != nil {
				g.Reason = d.wrong.Error()
			}
			b.Hide(g)
		}
		return nil
	}
	c := common{key: d.ids.of(o.id)}
	if c.id = d.ids.text(c.key); c.id != string(o.id) {
		c.id = string(o.id) // another spelling than that by which it was named before
	}
	c.bare = o.properties < 0 || body[o.properties] == 'n'
	if c.bare && t == kindLBPart { // nobody names a rule, whom it leads to
		d.note(0, "it came without its properties")
	}
	if c.bare && !keptBare[t] && d.wrong == nil {
		return nil // as if it had not been read: who names it finds it missing
	}
	b.decode(d, &o, t, c)
	if d.err != nil {
		return faultOf(c.id, d.err)
	}
	if d.wrong != nil {
		b.spoil(t, c, says, d.wrong)
	}
	return nil
}

// count counts a resource. Each decoder knows what it has told, so that they need not wait for one another.
func (b *Builder) count(d *decoder, t kind, typ string, id []byte) {
	if rest, ok := cutFold(string(id[:min(len(id), 60)]), "/subscriptions/"); ok {
		sub, _, _ := strings.Cut(rest, "/")
		if !d.subs[sub] {
			b.mu.Lock()
			b.subs[strings.ToLower(sub)] = true
			b.mu.Unlock()
			if len(d.subs) < maxWords {
				d.subs[strings.Clone(sub)] = true
			}
		}
	}
	if t == kindOther {
		b.mu.Lock()
		defer b.mu.Unlock()
		if len(b.others) < 1000 || b.others[typ] > 0 {
			b.others[typ]++
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

// spoilt is a body with a value of a kind that does not belong in its place.
type spoilt struct {
	kind kind
	id   string
	why  string
}

// spoil records a body of which nothing can be relied on. It is a gap: what needs it is unknown, and nobody takes it for absent.
func (b *Builder) spoil(t kind, c common, typ string, wrong *syntaxError) {
	x := spoilt{t, c.id, wrong.Error()}
	g := Gap{Source: "the body of a resource", Subscription: metaOf(c.id).Subscription, Resource: c.id, Type: typ, Reason: x.why}
	switch t {
	case kindAdmin: // it is networks that are asked for theirs
		g.Resource = networkOf(c.id)
	case kindSubnet:
		g.Type = typeVNet
	case kindLBPart:
		g.Type = typeLB
	case kindSetNIC:
		g.Type = typeNIC
	}
	b.Hide(g)
	b.mu.Lock()
	defer b.mu.Unlock()
	b.spoilt[c.key] = x
}

// networkOf is the network that security admin rules are about.
func networkOf(id string) string {
	if idType(id) == typeAdmin {
		return parent(id)
	}
	return id
}

// dropSpoilt takes out what the same resource said in another body: which of the two holds is not known.
func (b *Builder) dropSpoilt() {
	tables := map[kind]interface{ drop(key) }{kindVM: &b.vms, kindNIC: &b.nics, kindSetNIC: &b.nics, kindVNet: &b.vnets, kindSubnet: &b.subnets, kindNSG: &b.nsgs,
		kindRule: &b.rules, kindPIP: &b.pips, kindLB: &b.lbs, kindLBPart: &b.lbParts, kindBastion: &b.bastions, kindSet: &b.sets, kindInstance: &b.instances, kindJIT: &b.jits, kindAdmin: &b.admins,
		kindFirewall: &b.firewalls, kindPolicy: &b.policies, kindCollections: &b.collections, kindIPGroup: &b.ipGroups, kindRoutes: &b.routes, kindGateway: &b.gateways,
		kindLocal: &b.locals, kindConnection: &b.connections}
	for k, x := range b.spoilt {
		if x.kind == kindAdmin {
			k = b.ids.of([]byte(networkOf(x.id)))
		}
		tables[x.kind].drop(k)
	}
}

// adminSpoilt says why the security admin rules of a network could not be read.
func (b *Builder) adminSpoilt(vnet string) string {
	for _, x := range b.spoilt {
		if x.kind == kindAdmin && strings.EqualFold(networkOf(x.id), vnet) {
			return ": " + x.why
		}
	}
	return ""
}

// spoiltUnder says why a part of a resource that was read apart could not be read, "" when all could.
func (b *Builder) spoiltUnder(k kind, parentID string) string {
	var first spoilt
	for _, x := range b.spoilt {
		if x.kind == k && strings.EqualFold(parent(x.id), parentID) && (first.id == "" || compareIDs(x.id, first.id) < 0) {
			first = x
		}
	}
	if first.id == "" {
		return ""
	}
	return first.id + " could not be read: " + first.why
}

// Build joins what was added. The Builder must not be used afterwards.
func (b *Builder) Build() *Estate {
	slices.SortFunc(b.gaps, func(x, y Gap) int {
		return cmp.Or(cmp.Compare(x.Source, y.Source), cmp.Compare(x.Subscription, y.Subscription), cmp.Compare(x.Resource, y.Resource),
			cmp.Compare(x.Type, y.Type), cmp.Compare(x.Reason, y.Reason))
	})
	b.gaps = slices.Compact(b.gaps)
	e := &Estate{b: b, gaps: b.gaps, counts: Counts{Resources: int(b.resources.Load()), Subscriptions: len(b.subs), Others: b.others}}
	b.dropSpoilt()
	e.join()
	return e
}

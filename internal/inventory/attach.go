package inventory

import (
	"maps"
	"slices"

	"github.com/curfew-jit/curfew/internal/azure"
)

// Attach returns a copy in which a group stands on network interfaces, in place of any that they had, to judge a plan before it is
// made. Interfaces that were not read are passed over.
func (s *Snapshot) Attach(n azure.NSG, nics ...string) *Snapshot {
	raw := s.raw
	raw.nics, raw.nsgs = maps.Clone(raw.nics), maps.Clone(raw.nsgs)
	n.NICs = slices.Clone(nics)
	raw.nsgs[azure.Key(n.ID)] = n
	for _, id := range nics {
		if old := raw.nics[azure.Key(id)]; old != nil {
			c := *old
			c.Properties.NetworkSecurityGroup = &azure.SubResource{ID: n.ID}
			raw.nics[azure.Key(id)] = &c
		}
	}
	out := newSnapshot(raw, s.Taken, s.Problems, s.base)
	out.over, out.cache = s.over, newCompiled()
	return out
}

// Bare returns the network interfaces of a machine that have a way in without any group: none of their own, and none on the subnet.
func (m Machine) Bare() []string {
	var out []string
	for _, e := range m.Endpoints {
		if e.NICNSG == "" && e.SubnetNSG == "" && !e.vnetUnread && !slices.ContainsFunc(out, func(o string) bool { return azure.EqualID(o, e.NIC) }) {
			out = append(out, e.NIC)
		}
	}
	return out
}

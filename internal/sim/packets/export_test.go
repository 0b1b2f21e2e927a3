package packets

import (
	"fmt"
	"net/netip"
	"strings"
)

// Judges renders the ways to many interfaces into one table, the chains of each as its machine would have them. A frame says by its
// source address which are asked: 02:00, two bytes for the number of the interface, a bit for outward, fifteen bits that are free. The
// sets arrived and passed hold the addresses of the frames that came and that were let through.
func Judges(dump []byte, tags map[string][]netip.Prefix, nics []string) (string, error) {
	e, err := readEstate(dump)
	if err != nil {
		return "", err
	}
	rs := newRuleset(e, tags)
	var to []string
	for i, id := range nics {
		n, ok := e.nics[strings.ToLower(id)]
		if !ok {
			return "", fmt.Errorf("no interface %s", id)
		}
		sub := e.subnets[n.configs[0].subnet]
		rs.place = sub.vnet
		in, out := rs.config(fmt.Sprintf("case%d", i), layers{vnet: sub.vnet, subnet: sub.nsg, nic: n.nsg})
		to = append(to, fmt.Sprintf("02:00:%02x:%02x:00:00 : goto %s, 02:00:%02x:%02x:80:00 : goto %s", i>>8, i&255, in, i>>8, i&255, out))
	}
	if len(e.problems) > 0 || len(rs.unknown) > 0 {
		return "", fmt.Errorf("problems %v, unknown tags %v", e.problems, rs.unknown)
	}
	// Before routing and connection tracking: sources may be anything, and each packet stands alone.
	return table("judges", rs.definitions()+rs.chains.String()+`	set arrived {
		type ether_addr
		size 65535
		flags dynamic,timeout
		timeout 1h
	}
	set passed {
		type ether_addr
		size 65535
		flags dynamic,timeout
		timeout 1h
	}
	chain arrive {
		type filter hook prerouting priority -450; policy accept;
		ether saddr & ff:ff:00:00:00:00 != 02:00:00:00:00:00 drop
		update @arrived { ether saddr }
	}
	chain judge {
		type filter hook prerouting priority -440; policy drop;
		ether saddr & ff:ff:ff:ff:80:00 vmap { `+strings.Join(to, ", ")+` }
	}
	chain pass {
		type filter hook prerouting priority -430; policy drop;
		update @passed { ether saddr }
	}
`), nil
}

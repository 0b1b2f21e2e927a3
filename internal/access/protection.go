package access

import (
	"net/netip"
	"slices"
	"strings"
	"time"
)

// ProtectedPort is a port that is shut unless granted, with the limits that its protection sets.
type ProtectedPort struct {
	Ports    Ports          `json:"port"`
	Protocol Protocol       `json:"protocol"`
	Max      time.Duration  `json:"max"`     // longest access time; zero: the policy's alone
	Sources  []netip.Prefix `json:"sources"` // allowed sources; empty: the policy's alone
	Places   []Place        `json:"places"`  // where its shield stands, and the addresses that it names there
}

// Exemption is a standing way in that protect leaves, named and shown in the plan: a Bastion subnet, a load balancer's probe.
type Exemption struct {
	Name   string `json:"name"`
	Source string `json:"source"` // a prefix, or the tag AzureLoadBalancer
}

// Replacement keeps a rule of somebody else's that a person consented to replace, as it was before (P3).
type Replacement struct {
	NSG      string `json:"nsg"`      // resource id
	Rule     string `json:"rule"`     // its name
	Original []byte `json:"original"` // the rule's body as Azure gave it
	By       string `json:"by"`
}

// ProtectionState tells whether a protection is in force.
type ProtectionState string

// The states of a protection.
const (
	ProtectionOn       ProtectionState = "on"       // the effective verdict was deny when last read (P4)
	ProtectionPending  ProtectionState = "pending"  // being written
	ProtectionFailed   ProtectionState = "failed"   // written or not, the effective verdict is not deny; Why says by which rule
	ProtectionRemoving ProtectionState = "removing" // being switched off; what was replaced is to be put back
	ProtectionRemoved  ProtectionState = "off"
)

// Protection is JIT switched on for a machine.
type Protection struct {
	VM         VM              `json:"vm"`
	Ports      []ProtectedPort `json:"ports"`
	Exemptions []Exemption     `json:"exemptions"`
	Consents   []RuleRef       `json:"consents"` // foreign rules that a person named as replaceable (P3)
	Replaced   []Replacement   `json:"replaced"`
	State      ProtectionState `json:"state"`
	Why        string          `json:"why"`
	By         string          `json:"by"`
	At         time.Time       `json:"at"`
	CheckedAt  time.Time       `json:"checked_at"` // when the effective verdict was last read
	Places     []Place         `json:"places"`     // of all its ports together
	Version    int64           `json:"version"`
}

// RuleRef names one rule of an NSG.
type RuleRef struct {
	NSG  string `json:"nsg"` // resource id
	Rule string `json:"rule"`
}

// Shields tells whether the protection's shields are to stand.
func (p Protection) Shields() bool {
	return p.State == ProtectionOn || p.State == ProtectionPending || p.State == ProtectionFailed
}

// Covers returns the protected port that holds every port of t, if one does and the protection is on.
func (p Protection) Covers(ports Ports, proto Protocol) (ProtectedPort, bool) {
	if !p.Shields() {
		return ProtectedPort{}, false
	}
	i := slices.IndexFunc(p.Ports, func(q ProtectedPort) bool { return q.Protocol == proto && q.Ports.Contains(ports) })
	if i < 0 {
		return ProtectedPort{}, false
	}
	return p.Ports[i], true
}

// Check refuses an ask that the protection does not cover or that is beyond its limits.
func (p Protection) Check(t Target, source netip.Prefix, d time.Duration) error {
	if _, ok := p.Covers(t.Ports, t.Protocol); !ok {
		have := "none of its ports is"
		if len(p.Ports) > 0 && p.Shields() {
			var s []string
			for _, q := range p.Ports {
				s = append(s, q.Ports.String()+"/"+string(q.Protocol))
			}
			have = "protected there: " + strings.Join(s, ", ")
		}
		return Errorf(CodeNotProtected, "port %s/%s of %s is not protected, so a grant would mean nothing (%s)", t.Ports, t.Protocol, t.VM.Name, have).
			WithHint("protect it first: curfew protect %s --port %s", t.VM.Name, t.Ports)
	}
	for _, q := range p.Ports { // of several that cover it, each limits
		if q.Protocol != t.Protocol || !q.Ports.Contains(t.Ports) {
			continue
		}
		if q.Max > 0 && d > q.Max {
			return Errorf(CodeDenied, "%s is over the limit: %s allows %s on port %s", Duration(d), t.VM.Name, Duration(q.Max), q.Ports).
				WithHint("ask for %s instead", Duration(q.Max))
		}
		if len(q.Sources) > 0 && !slices.ContainsFunc(q.Sources, func(s netip.Prefix) bool { return PrefixWithin(source, s) }) {
			return Errorf(CodeDenied, "source %s is not among those that %s allows on port %s: %v", source, t.VM.Name, q.Ports, q.Sources).
				WithHint("ask from one of these addresses, with --from")
		}
	}
	return nil
}

package fix

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/scan"
)

// removal plans that a rule past its end, or without an owner, is taken out: ours by its name, Defender's with consent.
func (b *builder) removal(ctx context.Context, x scan.Finding) {
	for _, r := range x.Evidence.Rules {
		s, g, err := b.group(ctx, r.NSG)
		if err != nil {
			b.unread(x, err)
			continue
		}
		have, ok := g.read.Rule(r.Rule)
		if !ok {
			continue
		}
		h, ours := enforce.ParseName(have.Name)
		switch {
		case ours && h.Kind == enforce.KindAllow && b.now.Before(h.End):
			b.left(x, "run fix again after its end", "%s has an end that is still to come", have.Name)
			continue
		case ours:
		case isDefenderAllow(have) && x.Rule == scan.RuleOverdue:
			if !consents(b.o.RemoveDefender, r.NSG)[strings.ToLower(have.Name)] {
				b.left(x, fmt.Sprintf("consent to it: --remove-defender-rule %s/%s", s.name, have.Name), "Defender wrote %s, and it is Defender's to remove", have.Name)
				continue
			}
			if b.running(have) {
				b.left(x, "run fix again when the request is over", "a request of Defender's may still run for %s", have.Name)
				continue
			}
		default:
			b.left(x, "look at the rule, and remove it by hand", "%s is not ours by its name", have.Name)
			continue
		}
		s.removing[strings.ToLower(have.Name)] = true
		g.become(newGroup(g.read, s.name, s.removing, s.consents, b.now))
		s.finding(x.ID)
	}
}

// running tells whether a request of Defender's that is not over may stand behind one of its rules: one for the rule's port, wherever
// it is for. A request whose end could not be read counts.
func (b *builder) running(r azure.SecurityRule) bool {
	for _, p := range b.e.Policies() {
		for _, q := range p.Requests {
			if strings.EqualFold(q.Status, "Revoked") || !q.End.IsZero() && !b.now.Before(q.End) {
				continue
			}
			if slices.ContainsFunc(r.DestinationPorts, func(t string) bool {
				pr, err := netsec.ParsePortRange(t)
				return err == nil && pr.Contains(uint16(q.Port))
			}) && (len(q.Sources) == 0 || slices.ContainsFunc(q.Sources, func(s string) bool { return slices.Contains(r.SourcePrefixes, s) })) {
				return true
			}
		}
	}
	return false
}

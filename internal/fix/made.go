package fix

import (
	"context"
	"encoding/json"
	"slices"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
)

// bareNICs are the interfaces of machines that no group is in front of: where protect puts one that it makes.
func (b *builder) bareNICs(vms []string) (out []string) {
	for _, id := range vms {
		vm, ok := b.e.VM(id)
		if !ok {
			continue
		}
		for _, ep := range vm.Endpoints {
			if ep.NICNSG == "" && ep.NIC != "" {
				out = appendNew(out, ep.NIC)
			}
		}
	}
	return out
}

// made are the entries for groups that protect would make: which do not stand yet, and on which interfaces they may come to be.
func (f *Fixer) made(ctx context.Context, s *Step, plan api.ProtectPlan) (es []entry, err error) {
	nics, err := json.Marshal(s.bare)
	if err != nil {
		return nil, err
	}
	for _, c := range plan.Changes {
		id, err := azure.ParseID(c.Place)
		if err != nil || !id.Is("Microsoft.Network/networkSecurityGroups") || c.Access != "" || c.Kind != string(enforce.Add) ||
			slices.ContainsFunc(es, func(e entry) bool { return azure.EqualID(e.Resource, c.Place) }) {
			continue
		}
		switch _, err := f.c.Azure.NSG(ctx, c.Place); {
		case azure.Classify(err) == azure.NotFound:
			es = append(es, entry{Kind: kindMade, Resource: c.Place, After: string(nics)})
		case err != nil:
			return nil, err
		} // one that stands is put on an interface, and was not made: it stays
	}
	return es, nil
}

// made takes a group off the interfaces that it was made for, and removes it, if it is as it was made: without a rule, on no other
// interface and on no subnet. What it shut is open again as before: it is said.
func (u *undoing) made(ctx context.Context, es []entry) error {
	e := es[0]
	var ours []string
	if err := json.Unmarshal([]byte(e.After), &ours); err != nil {
		return invalid("undo-from", "entry %d of the undo file cannot be read: %v", "name the file that curfew fix wrote", e.N, err)
	}
	keep := func(why, next string) {
		u.out.Kept = append(u.out.Kept, Kept{Resource: e.Resource, Why: why, Next: next})
	}
	n, err := u.f.c.Azure.NSG(ctx, e.Resource)
	if azure.Classify(err) == azure.NotFound {
		return u.note(es)
	}
	if err != nil {
		return err
	}
	elsewhere := slices.Clone(n.Subnets)
	for _, id := range n.NICs {
		if !slices.ContainsFunc(ours, func(o string) bool { return azure.EqualID(o, id) }) {
			elsewhere = append(elsewhere, id)
		}
	}
	// In a dry run the rules of the protection still stand.
	foreign := slices.DeleteFunc(slices.Clone(n.Rules), func(r azure.SecurityRule) bool {
		_, ours := enforce.ParseName(r.Name)
		return u.dry && ours
	})
	switch {
	case len(foreign) > 0:
		keep("the group that was made holds rules: "+list(ruleNames(foreign), 4), "take them out, and undo again, or keep the group")
		return nil
	case len(elsewhere) > 0:
		keep("the group that was made is in use elsewhere: "+list(idNames(elsewhere), 4), "take it off there, and undo again, or keep the group")
		return nil
	}
	if !u.dry {
		for _, id := range n.NICs {
			if err := u.takeOff(ctx, id, n.ID); err != nil {
				return err
			}
		}
		err := u.f.c.Azure.DeleteNSG(ctx, n.ID)
		if u.sent(err); err != nil {
			return err
		}
	}
	u.out.Done = append(u.out.Done, Undone{Resource: e.Resource, What: "the group that was made is taken off " + list(idNames(n.NICs), 4) + " and removed: the machine is reached as it was before"})
	return u.note(es)
}

// takeOff takes a group off an interface that still has it.
func (u *undoing) takeOff(ctx context.Context, nicID, nsgID string) error {
	return u.f.again(ctx, &u.tally, func() (bool, error) {
		nic, err := u.f.c.Azure.NIC(ctx, nicID)
		if azure.Classify(err) == azure.NotFound {
			return false, nil
		}
		if err != nil {
			return false, err
		}
		if g := nic.Properties.NetworkSecurityGroup; g == nil || !azure.EqualID(g.ID, nsgID) {
			return false, nil
		}
		_, err = u.f.c.Azure.SetNICNSG(ctx, nic, "", ctx.Err)
		return true, err
	})
}

func ruleNames(rs []azure.SecurityRule) (out []string) {
	for _, r := range rs {
		out = append(out, r.Name)
	}
	return out
}

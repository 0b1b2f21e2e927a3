package nsg

import (
	"context"
	"fmt"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/inventory"
)

// createdTag marks a group that Curfew made, with the installation that did.
const createdTag = "curfew-installation"

// placeClient is what making a group asks of Azure beyond Client: *azure.Client.
type placeClient interface {
	NIC(ctx context.Context, id string) (azure.NIC, error)
	CreateNSG(ctx context.Context, n azure.NSG, guard func() error) (azure.NSG, error)
	SetNICNSG(ctx context.Context, nic azure.NIC, nsgID string, guard func() error) (azure.NIC, error)
}

func (b *Backend) newGroup(m inventory.Machine) azure.NSG {
	name := "curfew-" + strings.ToLower(m.Name) + "-nsg"
	id := fmt.Sprintf("/subscriptions/%s/resourceGroups/%s/providers/Microsoft.Network/networkSecurityGroups/%s", m.Subscription, m.Group, name)
	return azure.NSG{Resource: azure.Resource{ID: id, Name: name, Location: m.Location, Tags: map[string]string{createdTag: b.c.Installation}}}
}

// PlanPlace says what CreatePlace would make for a machine, and who loses access by the group alone. attach puts the group, without
// rules, into a snapshot. A machine none of whose interfaces needs one is access.CodeConflict.
func (b *Backend) PlanPlace(m inventory.Machine) (place string, lines []enforce.Change, attach func(*inventory.Snapshot) *inventory.Snapshot, err error) {
	nics := m.Bare()
	if len(nics) == 0 {
		return "", nil, nil, access.Errorf(access.CodeConflict, "%s has a network security group on each of its interfaces, or on their subnets", m.Name).
			WithHint("leave --create-nsg out")
	}
	n := b.newGroup(m)
	lines = []enforce.Change{{Place: n.ID, Kind: enforce.Add, Rule: n.Name, Summary: fmt.Sprintf("new network security group in resource group %s, %s", m.Group, m.Location),
		Why: m.Name + " has a way in without one"}}
	for _, id := range nics {
		lines = append(lines, enforce.Change{Place: n.ID, Kind: enforce.Add, Rule: n.Name, Summary: "put on network interface " + azure.IDName(id),
			Why: "by Azure's default rules its virtual network and load balancers still get in, on ports that are not protected; whoever comes from the Internet does not, on any port"})
	}
	return n.ID, lines, func(s *inventory.Snapshot) *inventory.Snapshot { return s.Attach(n, nics...) }, nil
}

// PlanNew is the dry run of Sync for a group that is not there yet.
func (b *Backend) PlanNew(place string, w enforce.Wanted) enforce.Result {
	n := azure.NSG{Resource: azure.Resource{ID: place, Name: azure.IDName(place)}}
	in := Input{Place: place, Wanted: w, Installation: b.c.Installation, Band: b.c.Band, Now: b.clock.Now()}
	p := NewPlan(in)
	n.Rules = p.Rules
	return enforce.Result{Place: place, Changes: p.Changes, Problems: p.Problems, Before: p.Before.Windows, Until: p.Before.Until, After: p.After.Windows,
		Shields: p.After.Shields, Clean: len(p.After.Stray) == 0, Held: heldOf(place, p.Rules), Leftover: map[access.GrantID]error{},
		Snapshot: func(s *inventory.Snapshot) *inventory.Snapshot { return s.With(n) }}
}

// CreatePlace makes a group for a machine and puts it on each of its interfaces that has a way in without one, and returns its id.
// It may be repeated: a group of that name is used if this installation made it, and left alone, as a conflict, if not. A group
// alone lets in nobody who did not get in before.
func (b *Backend) CreatePlace(ctx context.Context, m inventory.Machine) (string, error) {
	c, ok := b.c.Client.(placeClient)
	if !ok {
		return "", access.Errorf(access.CodeUnprotectable, "this back end cannot make a network security group").WithHint("make one by hand, and put it on the machine's interface")
	}
	n := b.newGroup(m)
	nics := m.Bare()
	have, err := b.c.Client.NSG(ctx, n.ID)
	if azure.Classify(err) == azure.NotFound {
		have, err = c.CreateNSG(ctx, n, nil)
		switch azure.Classify(err) {
		case azure.Conflict, azure.Precondition, azure.UnknownOutcome, azure.Superseded: // made by an earlier attempt, or by another process
			have, err = b.c.Client.NSG(ctx, n.ID)
		}
	}
	if err != nil {
		return "", azure.UserError(err)
	}
	if have.Tags[createdTag] != b.c.Installation {
		return "", access.Errorf(access.CodeConflict, "there is a network security group %s in resource group %s already, and this installation did not make it", n.Name, m.Group).
			WithHint("put it on %s by hand if it is meant for it, then protect again without --create-nsg", m.Name)
	}
	for _, id := range nics {
		if err := b.attach(ctx, c, id, n.ID); err != nil {
			return "", err
		}
	}
	return n.ID, nil
}

func (b *Backend) attach(ctx context.Context, c placeClient, nicID, nsgID string) error {
	for try := 1; ; try++ {
		nic, err := c.NIC(ctx, nicID)
		if err != nil {
			return azure.UserError(err)
		}
		if g := nic.Properties.NetworkSecurityGroup; g != nil {
			if azure.EqualID(g.ID, nsgID) {
				return nil
			}
			return access.Errorf(access.CodePlanChanged, "network interface %s has got group %s meanwhile", azure.IDName(nicID), azure.IDName(g.ID)).
				WithHint("protect again: the plan is another one now")
		}
		_, err = c.SetNICNSG(ctx, nic, nsgID, nil)
		if err == nil {
			return nil
		}
		switch azure.Classify(err) {
		case azure.Precondition, azure.Superseded, azure.Busy, azure.UnknownOutcome:
			if try < refusals {
				continue
			}
		}
		return azure.UserError(err)
	}
}

// Explain returns an error of Sync or Shut as one to show: what, why, what next.
func (b *Backend) Explain(err error) error {
	if err == nil {
		return nil
	}
	return azure.UserError(err)
}

package broker

import (
	"context"
	"fmt"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/policy"
)

// shownPolicy is what a policy can tell of itself, besides deciding. *policy.Set does.
type shownPolicy interface {
	Document() policy.Document
	Digest() string
	Count() int
	Who(policy.Machine) []policy.RuleView
}

const (
	replayDays = 90
	replayMost = 20_000
)

// mayReadPolicy are the roles that may read all rules; somebody else learns of those that concern them when they ask.
var mayReadPolicy = []access.Role{access.Approver, access.Auditor, access.Admin}

func (b *Broker) shown() (shownPolicy, error) {
	if p, ok := b.cfg.Policy().(shownPolicy); ok {
		return p, nil
	}
	return nil, access.Errorf(access.CodeUnavailable, "this server's policy cannot be shown").WithHint("ask an admin for its text")
}

// Policy implements Service.
func (b *Broker) Policy(ctx context.Context, c access.Caller) (policy.Info, error) {
	if err := b.need(ctx, c, "policy.read", "", mayReadPolicy...); err != nil {
		return policy.Info{}, err
	}
	p, err := b.shown()
	if err != nil {
		return policy.Info{}, err
	}
	text, err := p.Document().Print()
	if err != nil {
		return policy.Info{}, fmt.Errorf("writing the policy: %w", err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return policy.Info{Digest: p.Digest(), Rules: p.Count(), Text: string(text), Refused: b.policyErr}, nil
}

// PolicyWho implements Service.
func (b *Broker) PolicyWho(ctx context.Context, c access.Caller, ref string) (policy.WhoReport, error) {
	if err := b.need(ctx, c, "policy.who", ref, mayScan...); err != nil {
		return policy.WhoReport{}, err
	}
	p, err := b.shown()
	if err != nil {
		return policy.WhoReport{}, err
	}
	_, m, err := b.find(ctx, ref)
	if err != nil {
		return policy.WhoReport{}, err
	}
	pm := policyMachine(m)
	return policy.WhoReport{ID: m.ID, Machine: pm, Digest: p.Digest(), Ways: p.Who(pm)}, nil
}

func policyMachine(m inventory.Machine) policy.Machine {
	out := policy.Machine{Name: m.Name, Group: m.Group, Subscription: m.Subscription, Tags: m.Tags, OS: m.OS, Location: m.Location}
	if out.Tags == nil {
		out.Tags = map[string]string{} // known to have none
	}
	return out
}

// ReplayPolicy implements Service.
func (b *Broker) ReplayPolicy(ctx context.Context, c access.Caller, text string) (policy.ReplayReport, error) {
	if err := b.need(ctx, c, "policy.replay", "", mayScan...); err != nil {
		return policy.ReplayReport{}, err
	}
	set, err := policy.Load([]byte(text), "")
	if err != nil {
		return policy.ReplayReport{}, invalid("text", "%s", words(err)).WithHint("try it with: curfew policy lint FILE")
	}
	snap, err := b.snapshot(ctx)
	if err != nil {
		return policy.ReplayReport{}, err
	}
	out := policy.ReplayReport{Digest: set.Digest(), Since: b.Now().AddDate(0, 0, -replayDays), Changed: []policy.Replayed{}}
	var past []policy.Past
	err = b.view(ctx, func(tx Tx) error {
		f := RequestFilter{Page: Page{Limit: 500}}
		for {
			page, next, err := tx.Requests(f)
			if err != nil {
				return err
			}
			for _, r := range page {
				if r.CreatedAt.Before(out.Since) {
					return nil
				}
				if len(past) == replayMost {
					out.Cut = true
					return nil
				}
				p, err := pastOf(tx, r, snap)
				if err != nil {
					return err
				}
				past = append(past, p)
			}
			if next == "" {
				return ctx.Err()
			}
			f.Page.After = next
		}
	})
	if err != nil {
		return policy.ReplayReport{}, err
	}
	for _, r := range set.Replay(past) {
		out.Requests++
		if r.Outcome == policy.Same {
			out.Same++
			continue
		}
		out.Changed = append(out.Changed, r)
	}
	return out, nil
}

// pastOf is a request as it was asked, one ask for each target, with what is known now of its machines.
func pastOf(tx Tx, r access.Request, s *inventory.Snapshot) (policy.Past, error) {
	a := access.Ask{Requester: r.Requester, Groups: r.Groups, Roles: r.Roles, Terms: r.Asked, StartAt: r.StartAt, Reason: r.Reason, Ticket: r.Ticket, BreakGlass: r.BreakGlass}
	if r.Extends != "" {
		g, err := tx.Grant(r.Extends)
		if err != nil {
			return policy.Past{}, err
		}
		a.Extension, a.StartAt, a.Held, a.Extensions = true, r.ExpiresAt, g.Duration, g.Extensions // it expires with the grant
		if r.State == access.Approved {                                                            // the grant is longer by it now
			a.Held, a.Extensions = max(0, a.Held-r.Terms.Duration), max(0, a.Extensions-1)
		}
	}
	p := policy.Past{ID: string(r.ID), At: r.CreatedAt, Needs: r.Needs, State: string(r.State)}
	if len(r.Needs) == 0 && !r.BreakGlass {
		p.Auto = r.Rules
	}
	for _, t := range a.Terms.Targets {
		p.Asks = append(p.Asks, about(a, t, s))
	}
	return p, nil
}

// metaPolicy is the store's key for the digest of the policy that was last in force.
const metaPolicy = "policy_digest"

// NotePolicy records that a policy is put in force, with what it changes in words. Only then may it be used (P7): an error says that it
// could not be recorded. One that is in force already is not recorded again.
func (b *Broker) NotePolicy(ctx context.Context, s *policy.Set, from string, changes []policy.Change) error {
	err := b.update(ctx, func(tx Tx) error {
		was, err := tx.Meta(metaPolicy)
		if err != nil || was == s.Digest() {
			return err
		}
		if err := tx.SetMeta(metaPolicy, s.Digest()); err != nil {
			return err
		}
		e := audit.Entry{At: b.Now(), Actor: system.Name, Action: "policy.load", Outcome: audit.Done,
			Message: fmt.Sprintf("a policy of %d rules from %s is in force", s.Count(), from)}
		var text []string
		for _, ch := range changes {
			text = append(text, ch.String())
		}
		_, err = tx.Append(detail(e, "digest", s.Digest(), "was", was, "changes", cut(strings.Join(text, "\n"), 8000)))
		return err
	})
	if err == nil {
		b.mu.Lock()
		b.policyErr = ""
		b.mu.Unlock()
	}
	return err
}

// RefusePolicy records that a new policy is wrong and the one in force stays; Status says so until a good one comes.
func (b *Broker) RefusePolicy(ctx context.Context, from string, why error) {
	b.mu.Lock()
	b.policyErr = cut(words(why), 2000)
	b.mu.Unlock()
	e := audit.Entry{At: b.Now(), Actor: system.Name, Action: "policy.refuse", Outcome: audit.Refused,
		Message: fmt.Sprintf("the new policy from %s is not taken, and the one in force stays", from)}
	b.record(ctx, detail(e, "error", cut(words(why), 8000)))
}

// cut bounds a text, at a line where it can.
func cut(s string, most int) string {
	if len(s) <= most {
		return s
	}
	s = s[:most]
	if i := strings.LastIndexByte(s, '\n'); i > 0 {
		s = s[:i]
	}
	return strings.ToValidUTF8(s, "") + "\n…"
}

package broker_test

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/policy"
)

// relation is who calls, and what the thing that the call is about is to them.
type relation string

const (
	nobody       relation = "nobody"                     // not signed in
	stranger     relation = "stranger"                   // signed in, without any role
	owner        relation = "owner"                      // the requester whose thing it is
	dismissed    relation = "owner without roles"        // the same person, whose roles were taken
	other        relation = "other requester"            // somebody else with the role
	approver     relation = "approver"                   //
	selfApprover relation = "approver, is the requester" // with both roles, and the thing is their own
	auditor      relation = "auditor"                    //
	admin        relation = "admin"                      //
	adminOwner   relation = "admin, is the requester"    //
	elsewhere    relation = "approver of another scope"  // with the role, and not among those whom the rule names
	program      relation = "program"                    // a token with every role, for which somebody answers
	sponsor      relation = "approver, answers for it"   // whom the rule names, and the thing is that of a program for which they answer
	standIn      relation = "stand-in of the requester"  // not among those whom the rule names; the requester, who is, has lent them their place
)

var relations = []relation{nobody, stranger, owner, dismissed, other, approver, selfApprover, auditor, admin, adminOwner, elsewhere, program, sponsor, standIn}

var adminToo = access.Caller{Name: "root", Roles: []access.Role{access.Requester, access.Admin}, Address: bt.Admin.Address}

var approverElsewhere = access.Caller{Name: "approver-9", Roles: []access.Role{access.Approver}, Address: bt.Approver.Address}

var robot = access.Caller{Name: "robot", Kind: access.APIToken, Sponsor: "root", Address: bt.Admin.Address,
	Roles: []access.Role{access.Requester, access.Approver, access.Auditor, access.Admin}}

var (
	answering = access.Caller{Name: "approver-8", Roles: []access.Role{access.Approver}, Address: bt.Approver.Address}
	lentTo    = access.Caller{Name: "approver-7", Roles: []access.Role{access.Approver}, Address: bt.Approver.Address}
	// answered is the program for which answering answers.
	answered = access.Caller{Name: "token:answered", Kind: access.APIToken, Sponsor: "Approver-8", Roles: []access.Role{access.Requester}, Address: bt.Requester.Address}
)

// matrixPolicy names its approvers, and lets the glass be broken.
type matrixPolicy struct{ *policy.Set }

func (p matrixPolicy) Decide(a access.Ask, now time.Time) (access.Limits, error) {
	glass := a.BreakGlass
	a.BreakGlass = false
	l, err := p.Set.Decide(a, now)
	if glass {
		l.Needs = nil
	}
	return l, err
}

func callers() map[relation]access.Caller {
	gone := bt.Requester
	gone.Roles = nil
	return map[relation]access.Caller{nobody: {}, stranger: bt.Stranger, owner: bt.Requester, dismissed: gone, other: bt.Requester2, approver: bt.Approver,
		selfApprover: bt.Both, auditor: bt.Auditor, admin: bt.Admin, adminOwner: adminToo, elsewhere: approverElsewhere, program: robot, sponsor: answering, standIn: lentTo}
}

// ownerOf is the person whose thing a call of a relation is about.
func ownerOf(r relation) access.Caller {
	switch r {
	case selfApprover, standIn:
		return bt.Both
	case sponsor:
		return answered
	case adminOwner:
		return adminToo
	}
	return bt.Requester
}

// person is somebody whose the thing is where it can be no program's.
func person(of access.Caller) access.Caller {
	if of.Kind != access.Person {
		return bt.Requester
	}
	return of
}

// ok is the code of no error.
const ok access.Code = ""

// Short names of codes.
const (
	unauth   = access.CodeUnauthenticated
	denied   = access.CodeDenied
	hidden   = access.CodeNotFound
	conflict = access.CodeConflict
	bad      = access.CodeInvalid
)

// cells is the whole table: what each method answers to each relation. In the order of relations.
var cells = map[string][]access.Code{
	//                 nobody  stranger owner   dismissed other   approver self    auditor admin   admin+own elsewhere program sponsor stand-in
	"VMs":            {unauth, denied, ok, denied, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"VM":             {unauth, denied, ok, denied, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"PlanProtect":    {unauth, denied, denied, denied, denied, denied, denied, denied, ok, ok, denied, ok, denied, denied},
	"Protect":        {unauth, denied, denied, denied, denied, denied, denied, denied, ok, ok, denied, ok, denied, denied},
	"PlanRequest":    {unauth, denied, ok, denied, ok, denied, ok, denied, denied, ok, denied, ok, denied, denied},
	"CreateRequest":  {unauth, denied, ok, denied, ok, denied, ok, denied, denied, ok, denied, ok, denied, denied},
	"Request":        {unauth, denied, ok, denied, hidden, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"Requests":       {unauth, denied, ok, denied, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"Approve":        {unauth, denied, denied, denied, denied, ok, denied, denied, denied, denied, denied, denied, denied, denied},
	"Deny":           {unauth, denied, denied, denied, denied, ok, denied, denied, denied, denied, denied, denied, denied, denied},
	"Cancel":         {unauth, denied, ok, denied, hidden, denied, ok, denied, denied, ok, denied, denied, denied, denied},
	"Comment":        {unauth, denied, ok, denied, hidden, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"Remind":         {unauth, denied, ok, denied, hidden, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"BreakGlass":     {unauth, denied, ok, denied, ok, denied, ok, denied, denied, ok, denied, denied, denied, denied},
	"Aftermath":      {unauth, denied, denied, denied, denied, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"CloseAftermath": {unauth, denied, denied, denied, denied, ok, denied, denied, ok, denied, ok, denied, ok, ok},
	"Delegate":       {unauth, denied, denied, denied, denied, ok, ok, denied, denied, denied, ok, denied, ok, ok},
	"Delegations":    {unauth, denied, denied, denied, denied, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"EndDelegation":  {unauth, denied, denied, denied, denied, denied, denied, denied, ok, ok, denied, ok, denied, denied},
	"Grant":          {unauth, denied, ok, denied, hidden, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"Grants":         {unauth, denied, ok, denied, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"Extend":         {unauth, denied, ok, denied, hidden, denied, ok, denied, denied, ok, denied, denied, denied, denied},
	"Close":          {unauth, denied, ok, denied, hidden, denied, ok, denied, denied, ok, denied, denied, denied, denied},
	"Revoke":         {unauth, denied, denied, denied, denied, ok, bad, denied, ok, bad, ok, ok, ok, ok},
	"Entries":        {unauth, denied, denied, denied, denied, denied, denied, ok, ok, ok, denied, ok, denied, denied},
	"Watch":          {unauth, denied, ok, denied, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"Checkpoint":     {unauth, denied, denied, denied, denied, denied, denied, ok, ok, ok, denied, ok, denied, denied},
	"RunScan":        {unauth, denied, denied, denied, denied, denied, denied, ok, ok, ok, denied, ok, denied, denied},
	"Explain":        {unauth, denied, denied, denied, denied, denied, denied, ok, ok, ok, denied, ok, denied, denied},
	"Scans":          {unauth, denied, denied, denied, denied, denied, denied, ok, ok, ok, denied, ok, denied, denied},
	"Scan":           {unauth, denied, denied, denied, denied, denied, denied, ok, ok, ok, denied, ok, denied, denied},
	"DiffScans":      {unauth, denied, denied, denied, denied, denied, denied, ok, ok, ok, denied, ok, denied, denied},
	"Notices":        {unauth, denied, denied, denied, denied, denied, denied, ok, ok, ok, denied, ok, denied, denied},
	"Notice":         {unauth, denied, denied, denied, denied, denied, denied, ok, ok, ok, denied, ok, denied, denied},
	"RetryNotice":    {unauth, denied, denied, denied, denied, denied, denied, denied, ok, ok, denied, ok, denied, denied},
	"TestChannel":    {unauth, denied, denied, denied, denied, denied, denied, denied, ok, ok, denied, ok, denied, denied},
	"Accounts":       {unauth, denied, denied, denied, denied, denied, denied, ok, ok, ok, denied, ok, denied, denied},
	"ReleaseAccount": {unauth, denied, denied, denied, denied, denied, denied, denied, ok, ok, denied, denied, denied, denied},
	"Sessions":       {unauth, denied, ok, denied, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"EndSessions":    {unauth, denied, denied, denied, denied, denied, denied, denied, ok, ok, denied, ok, denied, denied},
	"CreateToken":    {unauth, denied, denied, denied, denied, denied, denied, denied, ok, ok, denied, denied, denied, denied},
	"Tokens":         {unauth, denied, denied, denied, denied, denied, denied, ok, ok, ok, denied, ok, denied, denied},
	"RevokeToken":    {unauth, denied, denied, denied, denied, denied, denied, denied, ok, ok, denied, ok, denied, denied},
	"LinkIdentity":   {unauth, denied, ok, denied, ok, ok, ok, ok, ok, ok, ok, denied, ok, ok},
	"Links":          {unauth, denied, ok, denied, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"Unlink":         {unauth, denied, ok, denied, hidden, hidden, ok, hidden, ok, ok, hidden, ok, hidden, hidden},
	"Policy":         {unauth, denied, denied, denied, denied, ok, ok, ok, ok, ok, ok, ok, ok, ok},
	"PolicyWho":      {unauth, denied, denied, denied, denied, denied, denied, ok, ok, ok, denied, ok, denied, denied},
	"ReplayPolicy":   {unauth, denied, denied, denied, denied, denied, denied, ok, ok, ok, denied, ok, denied, denied},
	"Reconcile":      {unauth, denied, denied, denied, denied, denied, denied, denied, ok, ok, denied, ok, denied, denied},
	"Resume":         {unauth, denied, denied, denied, denied, denied, denied, denied, conflict, conflict, denied, conflict, denied, denied}, // nothing is on hold
	"Status":         {ok, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok, ok},                                                               // takes no caller
}

// things makes what calls are about, each new.
type things struct {
	t *testing.T
	s *bt.Stack
	n int
	// grants of each owner that stand open
	open       map[string]access.GrantID
	delegation string // one that stands
}

func (th *things) request(of access.Caller) access.Request {
	th.t.Helper()
	th.n++ // a start of its own, so that nobody asks twice for the same
	r, err := th.s.Broker.CreateRequest(th.t.Context(), of, broker.RequestInput{VMs: []string{"web-01"}, Duration: 30 * time.Minute, Reason: "matrix",
		StartAt: th.s.Clock.Now().Add(24*time.Hour + time.Duration(th.n)*time.Minute)})
	if err != nil {
		th.t.Fatal(err)
	}
	return r
}

// grant is one that is scheduled.
func (th *things) grant(of access.Caller) access.GrantID {
	th.t.Helper()
	r, err := th.s.Broker.Approve(th.t.Context(), bt.Approver2, th.request(of).ID, broker.ReviewInput{})
	if err != nil {
		th.t.Fatal(err)
	}
	return r.Grants[0]
}

// linked is an identity elsewhere that belongs to somebody.
func (th *things) linked(of access.Caller) string {
	th.t.Helper()
	th.n++
	who := broker.Identity{Kind: "slack", Team: "T1", User: fmt.Sprintf("U%d", th.n)}
	code, err := th.s.Broker.NewLinkCode(th.t.Context(), who)
	if err == nil {
		_, err = th.s.Broker.LinkIdentity(th.t.Context(), person(of), broker.LinkInput{Kind: "slack", Code: code, Confirm: who.Key()})
	}
	if err != nil {
		th.t.Fatal(err)
	}
	return who.Key()
}

// deadLetter is a notice that was given up.
func (th *things) deadLetter() string {
	th.t.Helper()
	n, err := th.s.Broker.TestChannel(th.t.Context(), bt.Admin, "ops")
	if err == nil {
		n.State, n.LastError = notify.Dead, "it is gone"
		err = th.s.Broker.Outbox().Settle(th.t.Context(), []notify.Notice{n})
	}
	if err != nil {
		th.t.Fatal(err)
	}
	return n.ID
}

// call is one call of a method; the returned id is what it is about, "" for nothing of anybody's.
func (th *things) call(method string, c access.Caller, of access.Caller) (id string, _ func() error) {
	b, ctx := th.s.Broker, th.t.Context()
	th.n++
	switch method {
	case "VMs":
		return "", func() error { _, err := b.VMs(ctx, c, ""); return err }
	case "VM":
		return "", func() error { _, err := b.VM(ctx, c, "web-01"); return err }
	case "PlanProtect":
		return "", func() error {
			_, err := b.PlanProtect(ctx, c, broker.ProtectInput{VMs: []string{"payroll"}})
			return err
		}
	case "Protect":
		return "", func() error { _, err := b.Protect(ctx, c, broker.ProtectInput{VMs: []string{"payroll"}}); return err }
	case "PlanRequest":
		return "", func() error {
			_, err := b.PlanRequest(ctx, c, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour, Reason: "matrix"})
			return err
		}
	case "CreateRequest":
		n := th.n
		return "", func() error {
			_, err := b.CreateRequest(ctx, c, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour + time.Duration(n)*time.Second, Reason: "matrix"})
			return err
		}
	case "Request", "Approve", "Deny", "Cancel":
		id := th.request(of).ID
		return string(id), func() (err error) {
			switch method {
			case "Request":
				_, err = b.Request(ctx, c, id)
			case "Approve":
				_, err = b.Approve(ctx, c, id, broker.ReviewInput{})
			case "Deny":
				_, err = b.Deny(ctx, c, id, "no")
			case "Cancel":
				_, err = b.Cancel(ctx, c, id)
			}
			return err
		}
	case "Comment", "Remind":
		id := th.request(of).ID
		return string(id), func() (err error) {
			if method == "Comment" {
				_, err = b.Comment(ctx, c, id, "a word")
			} else {
				_, err = b.Remind(ctx, c, id)
			}
			return err
		}
	case "BreakGlass":
		n := th.n
		return "", func() error {
			_, err := b.BreakGlass(ctx, c, broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour + time.Duration(n)*time.Second, Reason: "matrix"})
			return err
		}
	case "Aftermath":
		return "", func() error { _, err := b.Aftermath(ctx, c); return err }
	case "CloseAftermath":
		r, err := b.BreakGlass(ctx, person(of), broker.RequestInput{VMs: []string{"web-01"}, Duration: time.Hour + time.Duration(th.n)*time.Second, Reason: "matrix"})
		if err != nil {
			th.t.Fatal(err)
		}
		return string(r.ID), func() error { _, err := b.CloseAftermath(ctx, c, r.ID, "it was needed"); return err }
	case "Delegate":
		return "", func() error {
			_, err := b.Delegate(ctx, c, broker.DelegateInput{To: bt.Approver2.Name, Until: th.s.Clock.Now().Add(time.Hour)})
			return err
		}
	case "Delegations":
		return "", func() error { _, err := b.Delegations(ctx, c); return err }
	case "EndDelegation": // of two others
		if th.delegation == "" {
			d, err := b.Delegate(ctx, bt.Approver2, broker.DelegateInput{To: bt.Both3.Name, Until: th.s.Clock.Now().Add(time.Hour)})
			if err != nil {
				th.t.Fatal(err)
			}
			th.delegation = d.ID
		}
		id := th.delegation
		return "", func() error {
			err := b.EndDelegation(ctx, c, id)
			if err == nil {
				th.delegation = ""
			}
			return err
		}
	case "Requests":
		return "", func() error {
			list, _, err := b.Requests(ctx, c, broker.RequestFilter{Requester: bt.Requester.Name, Page: broker.Page{Limit: 500}})
			for _, r := range list {
				if !slices.ContainsFunc(c.Roles, func(r access.Role) bool { return r != access.Requester }) && r.Requester != c.Name {
					th.t.Errorf("%s sees %s of %s in the list", c.Name, r.ID, r.Requester)
				}
			}
			return err
		}
	case "Grants":
		return "", func() error {
			list, _, err := b.Grants(ctx, c, broker.GrantFilter{Page: broker.Page{Limit: 500}})
			for _, g := range list {
				if !slices.ContainsFunc(c.Roles, func(r access.Role) bool { return r != access.Requester }) && g.Requester != c.Name {
					th.t.Errorf("%s sees %s of %s in the list", c.Name, g.ID, g.Requester)
				}
			}
			return err
		}
	case "Grant", "Close", "Revoke":
		id := th.grant(of)
		return string(id), func() (err error) {
			switch method {
			case "Grant":
				_, err = b.Grant(ctx, c, id)
			case "Close":
				_, err = b.Close(ctx, c, id)
			case "Revoke":
				_, err = b.Revoke(ctx, c, id, "enough")
			}
			return err
		}
	case "Extend":
		id, n := th.open[of.Name], th.n
		return string(id), func() error {
			_, err := b.Extend(ctx, c, id, 10*time.Minute+time.Duration(n)*time.Second, "more", "")
			return err
		}
	case "Entries":
		return "", func() error { _, err := b.Entries(ctx, c, broker.AuditFilter{}); return err }
	case "Checkpoint":
		return "", func() error { _, err := b.Checkpoint(ctx, c); return err }
	case "Watch":
		return "", func() error {
			ctx, cancel := context.WithCancel(ctx)
			defer cancel()
			ch, err := b.Watch(ctx, c, -1)
			cancel()
			if err == nil {
				for range ch { // ends with its context
				}
			}
			return err
		}
	case "RunScan":
		return "", func() error { _, err := b.RunScan(ctx, c); return err }
	case "Explain":
		return "", func() error { _, err := b.Explain(ctx, c, broker.ExplainInput{VM: "web-01", Port: 22}); return err }
	case "Scans":
		return "", func() error { _, _, err := b.Scans(ctx, c, broker.Page{}); return err }
	case "Scan", "DiffScans":
		for range 2 { // something to look at, and something before it
			if _, err := b.RunScan(ctx, bt.Admin); err != nil {
				th.t.Fatal(err)
			}
		}
		return "", func() (err error) {
			if method == "Scan" {
				_, err = b.Scan(ctx, c, broker.Latest)
			} else {
				_, err = b.DiffScans(ctx, c, "", broker.Latest)
			}
			return err
		}
	case "LinkIdentity":
		who := broker.Identity{Kind: "slack", Team: "T1", User: fmt.Sprintf("U%d", th.n)}
		code, err := b.NewLinkCode(ctx, who)
		if err != nil {
			th.t.Fatal(err)
		}
		return "", func() error {
			_, err := b.LinkIdentity(ctx, c, broker.LinkInput{Kind: "slack", Code: code, Confirm: who.Key()})
			return err
		}
	case "Links":
		th.linked(of)
		return "", func() error {
			ls, err := b.Links(ctx, c)
			for _, l := range ls {
				if !c.Has(access.Admin) && !c.Has(access.Auditor) && l.Person != c.Name {
					th.t.Errorf("%s sees the link of %s", c.Name, l.Person)
				}
			}
			return err
		}
	case "Unlink":
		id := th.linked(of)
		return id, func() error { return b.Unlink(ctx, c, id) }
	case "Notices":
		return "", func() error { _, _, err := b.Notices(ctx, c, broker.NoticeFilter{}); return err }
	case "Notice", "RetryNotice":
		id := th.deadLetter()
		return "", func() (err error) {
			if method == "Notice" {
				_, err = b.Notice(ctx, c, id)
			} else {
				_, err = b.RetryNotice(ctx, c, id)
			}
			return err
		}
	case "TestChannel":
		return "", func() error { _, err := b.TestChannel(ctx, c, "ops"); return err }
	case "Accounts":
		return "", func() error { _, err := b.Accounts(ctx, c); return err }
	case "Sessions":
		return "", func() error { _, err := b.Sessions(ctx, c, false); return err }
	case "ReleaseAccount", "EndSessions":
		name := fmt.Sprintf("dora-%d", th.n)
		if _, err := b.OpenSession(ctx, broker.HashSecret(name), broker.Session{Name: name, Key: name, Roles: bt.Requester.Roles, EndsAt: b.Now().Add(time.Hour)}, nil); err != nil {
			th.t.Fatal(err)
		}
		return "", func() error {
			if method == "ReleaseAccount" {
				return b.ReleaseAccount(ctx, c, name, "gone")
			}
			_, err := b.EndSessions(ctx, c, broker.EndSessionsInput{Person: name})
			return err
		}
	case "CreateToken":
		name := fmt.Sprintf("ci-%d", th.n)
		return "", func() error {
			_, _, err := b.CreateToken(ctx, c, broker.TokenInput{Name: name, Roles: []access.Role{access.Admin}})
			return err
		}
	case "Tokens":
		return "", func() error { _, err := b.Tokens(ctx, c); return err }
	case "RevokeToken":
		tok, _, err := b.CreateToken(ctx, bt.Admin, broker.TokenInput{Name: fmt.Sprintf("ci-%d", th.n), Roles: []access.Role{access.Admin}})
		if err != nil {
			th.t.Fatal(err)
		}
		return "", func() error { return b.RevokeToken(ctx, c, tok.ID, "") }
	case "Policy":
		return "", func() error { _, err := b.Policy(ctx, c); return err }
	case "PolicyWho":
		return "", func() error { _, err := b.PolicyWho(ctx, c, "web-01"); return err }
	case "ReplayPolicy":
		return "", func() error { _, err := b.ReplayPolicy(ctx, c, "rules: [{name: all}]"); return err }
	case "Reconcile":
		return "", func() error { _, err := b.Reconcile(ctx, c); return err }
	case "Resume":
		return "", func() error { return b.Resume(ctx, c, "looked") }
	case "Status":
		return "", func() error { b.Status(ctx); return nil }
	}
	th.t.Fatalf("the matrix does not know how to call %s", method)
	return "", nil
}

// version is how often a thing was changed.
func (th *things) version(id string) int64 {
	if strings.HasPrefix(id, "g-") {
		return th.s.Grant(access.GrantID(id)).Version
	}
	if id == "" {
		return 0
	}
	if f := strings.Split(id, ":"); len(f) == 3 {
		person, err := th.s.Broker.LinkedPerson(th.t.Context(), broker.Identity{Kind: f[0], Team: f[1], User: f[2]})
		if err != nil {
			th.t.Fatal(err)
		}
		return int64(len(person))
	}
	r, err := th.s.Broker.Request(th.t.Context(), bt.Auditor, access.RequestID(id))
	if err != nil {
		th.t.Fatal(err)
	}
	return r.Version
}

// P6, P7: every method of the service, for every relation of its caller to what it is about. A method without cells fails, and so
// does a cell for a method that there is not.
func TestMatrix(t *testing.T) {
	service := reflect.TypeFor[broker.Service]()
	var methods []string
	for i := range service.NumMethod() {
		m := service.Method(i)
		methods = append(methods, m.Name)
		if len(cells[m.Name]) != len(relations) {
			t.Errorf("%s has %d cells, want one for each of %d relations", m.Name, len(cells[m.Name]), len(relations))
		}
		if m.Name != "Status" && (m.Type.NumIn() < 2 || m.Type.In(1) != reflect.TypeFor[access.Caller]()) {
			t.Errorf("%s does not take the caller first", m.Name)
		}
	}
	for name := range cells {
		if !slices.Contains(methods, name) {
			t.Errorf("there are cells for %s, which is no method", name)
		}
	}
	if t.Failed() {
		return
	}
	for _, method := range methods {
		t.Run(method, func(t *testing.T) {
			said := map[relation][]string{} // what is wrong with each cell; subtests do not run inside of a bubble
			synctest.Test(t, func(t *testing.T) {
				s := bt.New(t, bt.Options{Scanner: &scripted{}, Routes: []notify.Route{{Name: "ops", Kinds: []notify.Kind{notify.SystemHold}}}, Rules: func() broker.Policy {
					return matrixPolicy{bt.Compile(t, policy.Document{Rules: []policy.Rule{{Name: "default",
						Approvers: []string{bt.Approver.Name, bt.Approver2.Name, bt.Both.Name, bt.Both3.Name, robot.Name, answering.Name}}}})}
				}})
				defer s.Stop()
				s.Protect("web-01")
				th := &things{t: t, s: s, open: map[string]access.GrantID{}}
				signIn(t, s, lentTo)
				must[broker.Delegation](t)(s.Broker.Delegate(t.Context(), bt.Both, broker.DelegateInput{To: lentTo.Name, Until: s.Clock.Now().Add(24 * time.Hour)}))
				if method == "Extend" {
					for _, c := range []access.Caller{bt.Requester, bt.Both, adminToo, answered} {
						th.open[c.Name] = s.Open(c, "web-01", time.Hour).ID
					}
				}
				for i, rel := range relations {
					said[rel] = th.cell(method, rel, cells[method][i])
				}
			})
			for _, rel := range relations {
				t.Run(string(rel), func(t *testing.T) {
					wrong, tried := said[rel]
					if !tried {
						t.Error("the cell was not tried")
					}
					for _, w := range wrong {
						t.Error(w)
					}
				})
			}
		})
	}
}

// cell tries one method for one relation, and returns what is wrong.
func (th *things) cell(method string, rel relation, want access.Code) (wrong []string) {
	c := callers()[rel]
	id, call := th.call(method, c, ownerOf(rel))
	before, size := th.version(id), len(th.s.Log())
	bad := func(format string, args ...any) { wrong = append(wrong, fmt.Sprintf(format, args...)) }
	err := call()
	if got := access.CodeOf(err); got != want {
		bad("got %q (%v), want %q", got, err, want)
		return wrong
	}
	if want == ok {
		return nil
	}
	var e *access.Error
	if !errors.As(err, &e) || e.Hint == "" || len(strings.Fields(e.Message)) < 3 {
		bad("%#v does not say what, why and what next (P8)", err)
		return wrong
	}
	if after := th.version(id); after != before {
		bad("it was refused and changed %s", id)
	}
	var log []audit.Entry
	for _, en := range th.s.Log()[size:] {
		if en.Actor != "curfew" { // what goes on meanwhile
			log = append(log, en)
		}
	}
	if want == denied && (len(log) != 1 || log[0].Outcome != audit.Refused || log[0].Actor != c.Name) {
		bad("the refusal is not recorded: %v", log)
	}
	if want == hidden { // the same words for what is hidden and what is not there
		absent := id[:2] + "0000000000"
		if msg := strings.ReplaceAll(e.Message+e.Hint, id, absent); msg != th.absent(method, c, absent) {
			bad("hidden reads %q, absent reads %q", msg, th.absent(method, c, absent))
		}
	}
	return wrong
}

func (th *things) absent(method string, c access.Caller, id string) string {
	b, ctx := th.s.Broker, th.t.Context()
	var err error
	switch method {
	case "Request":
		_, err = b.Request(ctx, c, access.RequestID(id))
	case "Comment":
		_, err = b.Comment(ctx, c, access.RequestID(id), "a word")
	case "Remind":
		_, err = b.Remind(ctx, c, access.RequestID(id))
	case "Cancel":
		_, err = b.Cancel(ctx, c, access.RequestID(id))
	case "Grant":
		_, err = b.Grant(ctx, c, access.GrantID(id))
	case "Extend":
		_, err = b.Extend(ctx, c, access.GrantID(id), 10*time.Minute, "more", "")
	case "Close":
		_, err = b.Close(ctx, c, access.GrantID(id))
	case "Unlink":
		err = b.Unlink(ctx, c, id)
	default:
		err = fmt.Errorf("no absent call for %s", method)
	}
	var e *access.Error
	if !errors.As(err, &e) {
		return fmt.Sprint(err)
	}
	return e.Message + e.Hint
}

// P6: another spelling of a name is not another person.
func TestMatrixSpelling(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := bt.New(t, bt.Options{})
		defer s.Stop()
		s.Protect("web-01")
		r := s.Ask(bt.Both, "web-01", time.Hour)
		for _, name := range []string{"BOTH", " both", "Both "} {
			c := bt.Both
			c.Name = name
			if _, err := s.Broker.Approve(t.Context(), c, r.ID, broker.ReviewInput{}); access.CodeOf(err) != denied {
				t.Errorf("%q approves the request of both: got %v", name, err)
			}
		}
	})
}

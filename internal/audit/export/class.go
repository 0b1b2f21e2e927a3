package export

import (
	"strings"

	"github.com/curfew-jit/curfew/internal/audit"
)

// class is a class of OCSF events that entries become.
type class struct {
	uid      int
	name     string
	category string
	verbs    map[int]string // the class's activities that are used here, with their captions
}

// The classes. Authorize Session is not among them: a grant is a permission to connect, given before any session is there.
var (
	signIn     = class{3002, "Authentication", "Identity & Access Management", map[int]string{1: "Logon", 2: "Logoff"}}
	userAccess = class{3005, "User Access Management", "Identity & Access Management", map[int]string{1: "Assign Privileges", 2: "Revoke Privileges"}}
	entity     = class{3004, "Entity Management", "Identity & Access Management", map[int]string{1: "Create", 2: "Read", 3: "Update", 4: "Delete", 5: "Move", 8: "Enable", 9: "Disable",
		10: "Activate", 11: "Deactivate", 12: "Suspend", 13: "Resume"}}
	apiCall    = class{6003, "API Activity", "Application Activity", map[int]string{1: "Create", 2: "Read", 3: "Update", 4: "Delete"}}
	scanRun    = class{6007, "Scan Activity", "Application Activity", map[int]string{1: "Started", 2: "Completed", 6: "Error"}}
	compliance = class{2003, "Compliance Finding", "Findings", map[int]string{1: "Create", 2: "Update", 3: "Close"}}
	base       = class{0, "Base Event", "Uncategorized", nil}
)

// meaning is what an action is, apart from the outcome of one entry.
type meaning struct {
	title    string // for people, and the name of a CEF event
	class    class
	activity int
	other    string // the activity in our word, where activity is 99
	kind     string // what the entry's object is
	refused  int    // the activity of the API call that was refused; 0 is 3, an update
}

const otherActivity = 99

// actions are all that the log holds. Requests, rules and protections are entities that somebody manages; that a grant is given or taken
// is a privilege of a user's; that it is opened and shut is its entity being activated and deactivated, so that one grant counts as one
// privilege; findings of scans are findings; a call that only reads, or was refused, is a call.
var actions = map[string]meaning{
	"request.create":      {title: "Access requested", class: entity, activity: 1, kind: "Access Request", refused: 1},
	"request.approve":     {title: "Access request approved", class: entity, activity: 3, kind: "Access Request"},
	"request.deny":        {title: "Access request denied", class: entity, activity: 3, kind: "Access Request"},
	"request.cancel":      {title: "Access request cancelled", class: entity, activity: 11, kind: "Access Request"},
	"request.expire":      {title: "Access request expired", class: entity, activity: 11, kind: "Access Request"},
	"request.plan":        {title: "Access request planned", class: apiCall, activity: 2, kind: "Virtual Machine", refused: 2},
	"request.read":        {title: "Access requests read", class: apiCall, activity: 2, kind: "Access Request", refused: 2},
	"request.break_glass": {title: "Access taken in an emergency", class: entity, activity: 1, kind: "Access Request", refused: 1},
	"request.comment":     {title: "Access request commented", class: entity, activity: 3, kind: "Access Request"},
	"request.remind":      {title: "Approvers reminded", class: entity, activity: otherActivity, other: "Remind", kind: "Access Request"},
	"request.escalate":    {title: "Access request escalated", class: entity, activity: otherActivity, other: "Escalate", kind: "Access Request"},
	"break_glass.due":     {title: "Emergency access not looked at yet", class: entity, activity: otherActivity, other: "Remind", kind: "Access Request"},
	"break_glass.close":   {title: "Emergency access reviewed", class: entity, activity: 3, kind: "Access Request"},
	"break_glass.read":    {title: "Emergency accesses read", class: apiCall, activity: 2, kind: "Access Request", refused: 2},
	"delegation.create":   {title: "Approvals delegated", class: entity, activity: 1, kind: "Delegation", refused: 1},
	"delegation.end":      {title: "Delegation ended", class: entity, activity: 4, kind: "Delegation", refused: 4},
	"delegation.read":     {title: "Delegations read", class: apiCall, activity: 2, kind: "Delegation", refused: 2},
	"notify.dead":         {title: "Notice not delivered", class: entity, activity: otherActivity, other: "Deliver", kind: "Notice"},
	"notify.retry":        {title: "Notice sent again", class: entity, activity: otherActivity, other: "Deliver", kind: "Notice"},
	"notify.test":         {title: "Notices tested", class: entity, activity: otherActivity, other: "Deliver", kind: "Notice"},
	"notice.read":         {title: "Notices read", class: apiCall, activity: 2, kind: "Notice", refused: 2},
	"session.start":       {title: "Sign-in", class: signIn, activity: 1, kind: "Session", refused: 1},
	"session.end":         {title: "Session ended", class: signIn, activity: 2, kind: "Session", refused: 4},
	"session.change":      {title: "Roles of a session changed", class: entity, activity: 3, kind: "Session"},
	"session.read":        {title: "Sessions read", class: apiCall, activity: 2, kind: "Session", refused: 2},
	"account.release":     {title: "Name of an account freed", class: entity, activity: 4, kind: "Account", refused: 4},
	"account.read":        {title: "Accounts read", class: apiCall, activity: 2, kind: "Account", refused: 2},
	"token.create":        {title: "Token made", class: entity, activity: 1, kind: "Token", refused: 1},
	"token.use":           {title: "Token used for the first time", class: entity, activity: 10, kind: "Token"},
	"token.revoke":        {title: "Token revoked", class: entity, activity: 4, kind: "Token", refused: 4},
	"token.read":          {title: "Tokens read", class: apiCall, activity: 2, kind: "Token", refused: 2},
	"link.create":         {title: "Account elsewhere linked", class: entity, activity: 1, kind: "Link", refused: 1},
	"link.remove":         {title: "Account elsewhere unlinked", class: entity, activity: 4, kind: "Link", refused: 4},
	"link.read":           {title: "Links read", class: apiCall, activity: 2, kind: "Link", refused: 2},
	"policy.load":         {title: "Policy put in force", class: entity, activity: 3, kind: "Access Policy"},
	"policy.refuse":       {title: "New policy not taken", class: entity, activity: 3, kind: "Access Policy"},
	"policy.read":         {title: "Policy read", class: apiCall, activity: 2, kind: "Access Policy", refused: 2},
	"policy.who":          {title: "Who may get in was asked", class: apiCall, activity: 2, kind: "Virtual Machine", refused: 2},
	"policy.replay":       {title: "Policy tried on past requests", class: apiCall, activity: 2, kind: "Access Policy", refused: 2},
	"grant.warn":          {title: "Access ends soon", class: entity, activity: otherActivity, other: "Warn", kind: "Grant"},
	"grant.create":        {title: "Access granted", class: userAccess, activity: 1, kind: "Grant"},
	"grant.extend":        {title: "Access extended", class: userAccess, activity: 1, kind: "Grant"},
	"grant.close":         {title: "Access given back", class: userAccess, activity: 2, kind: "Grant"},
	"grant.revoke":        {title: "Access revoked", class: userAccess, activity: 2, kind: "Grant"},
	"grant.open":          {title: "Port opened", class: entity, activity: 10, kind: "Grant"},
	"grant.shut":          {title: "Port shut", class: entity, activity: 11, kind: "Grant"},
	"grant.ready":         {title: "Opening verified", class: entity, activity: otherActivity, other: "Verify", kind: "Grant"},
	"grant.move":          {title: "Opening moved", class: entity, activity: 5, kind: "Grant"},
	"grant.read":          {title: "Grants read", class: apiCall, activity: 2, kind: "Grant", refused: 2},
	"protection.on":       {title: "JIT protection switched on", class: entity, activity: 8, kind: "JIT Protection"},
	"protection.off":      {title: "JIT protection switched off", class: entity, activity: 9, kind: "JIT Protection"},
	"protection.check":    {title: "JIT protection checked", class: entity, activity: 2, kind: "JIT Protection"},
	"nsg.create":          {title: "Network security group made", class: entity, activity: 1, kind: "Network Security Group"},
	"nsg.flush":           {title: "Connections cut", class: entity, activity: otherActivity, other: "Flush", kind: "Network Security Group"},
	"rule.replace":        {title: "Network rule replaced", class: entity, activity: 3, kind: "Network Security Rule"},
	"rule.restore":        {title: "Network rule restored", class: entity, activity: 3, kind: "Network Security Rule"},
	"rule.rewrite":        {title: "Network rule rewritten", class: entity, activity: 3, kind: "Network Security Group"},
	"drift.repair":        {title: "Outside change put right", class: entity, activity: 3, kind: "Network Security Group"},
	"scan.run":            {title: "Scan started", class: scanRun, activity: 1, kind: "Scan"},
	"scan.done":           {title: "Scan ended", class: scanRun, activity: 2, kind: "Scan"},
	"scan.appeared":       {title: "Finding appeared", class: compliance, activity: 1, kind: "Finding"},
	"scan.changed":        {title: "Finding changed", class: compliance, activity: 2, kind: "Finding"},
	"scan.gone":           {title: "Finding gone", class: compliance, activity: 3, kind: "Finding"},
	"scan.read":           {title: "Scans read", class: apiCall, activity: 2, kind: "Scan", refused: 2},
	"scan.explain":        {title: "Reachability explained", class: apiCall, activity: 2, kind: "Virtual Machine", refused: 2},
	"system.hold":         {title: "Openings put on hold", class: entity, activity: 12, kind: "Openings"},
	"system.resume":       {title: "Openings resumed", class: entity, activity: 13, kind: "Openings"},
	"system.reconcile":    {title: "Sweep asked for", class: apiCall, activity: 3, kind: "Openings"},
	"audit.read":          {title: "Audit log read", class: apiCall, activity: 2, kind: "Audit Log", refused: 2},
	"events.watch":        {title: "Events watched", class: apiCall, activity: 2, kind: "Audit Log", refused: 2},
	"vm.read":             {title: "Machines read", class: apiCall, activity: 2, kind: "Virtual Machine", refused: 2},
}

// Known tells whether an action has a meaning here. Entries with another one become base events that say so by their action.
func Known(action string) bool { _, ok := actions[action]; return ok }

// meant returns what one entry is: the action's meaning, changed where the outcome, or what the entry lacks, makes it another thing.
func meant(e audit.Entry) meaning {
	m, ok := actions[e.Action]
	switch {
	case !ok:
		return meaning{title: "Entry of the audit log", class: base, activity: otherActivity, other: e.Action, kind: "Object"}
	case e.Outcome == audit.Refused && e.Action == "session.start": // whoever tried was not let in
	case e.Outcome == audit.Refused:
		// A call was made and refused; nothing was assigned, made or changed.
		m.class, m.activity, m.other = apiCall, max(m.refused, 0), ""
		if m.activity == 0 {
			m.activity = 3
		}
	case m.class.uid == userAccess.uid && e.Detail["requester"] == "":
		m.class, m.activity = apiCall, 3 // whose privilege it is is not told
	case e.Action == "scan.done" && e.Outcome == audit.Failed:
		m.activity = 6
	case m.class.uid == compliance.uid && e.Detail["rule"] == "": // "and so many more"
		m.class, m.activity, m.other, m.kind = scanRun, otherActivity, "Findings Counted", "Scan"
	}
	return m
}

func (m meaning) activityName() string {
	if m.activity == otherActivity {
		return m.other
	}
	return m.class.verbs[m.activity]
}

// severity is that of OCSF: 1 informational, 2 low, 3 medium, 4 high, 5 critical.
func severity(e audit.Entry) int {
	switch {
	case e.Outcome == audit.Failed && (e.Action == "grant.shut" || e.Action == "grant.revoke" || e.Action == "protection.on" || e.Action == "drift.repair"):
		return 4 // a port may stand open that should be shut
	case e.Action == "system.hold", e.Action == "request.break_glass" && e.Outcome != audit.Refused:
		return 4
	case e.Action == "break_glass.due", e.Outcome == audit.Failed, e.Outcome == audit.Refused, e.Action == "drift.repair":
		return 3
	case e.Action == "scan.appeared", e.Action == "scan.changed":
		switch e.Detail["severity"] {
		case "critical":
			return 5
		case "high":
			return 4
		case "medium":
			return 3
		case "low":
			return 2
		}
	case e.Action == "grant.revoke", e.Action == "protection.off", e.Action == "rule.replace", e.Action == "system.resume",
		e.Action == "delegation.create", e.Action == "request.escalate", e.Action == "policy.load", e.Action == "token.create", e.Action == "account.release":
		return 2
	}
	return 1
}

var severityNames = map[int]string{1: "Informational", 2: "Low", 3: "Medium", 4: "High", 5: "Critical"}

// service tells whether the program itself acted: the configuration lets nobody be called so.
func service(e audit.Entry) bool { return strings.EqualFold(e.Actor, "curfew") }

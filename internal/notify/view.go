package notify

import (
	"fmt"
	"net/netip"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/curfew-jit/curfew/internal/access"
)

// View is an event as people read it: texts alone, on one line each, without anything that a terminal, a mail program or a chat
// would obey. Templates see it and nothing else.
type View struct {
	Kind, At, Installation, Actor, Message string
	ID                                     string // of the request, or of the grant where there is no request
	Grant                                  string // id of the grant, where it is about one
	Who                                    string // the requester
	Sponsor                                string
	What                                   string // the ports of the machines
	Machines                               string
	Source                                 string
	For                                    string
	Start, End                             string
	Reason                                 string
	Ticket                                 string
	Extends                                string
	Exposes                                string // what it lets in, in words
	State                                  string
	Waits                                  string // whose answer it waits for
	Missing                                string // how many must still agree
	Decided                                string // who decided, and how
	Trouble                                string // of a grant: what went wrong
	Link                                   string // to the request in the portal
	Command                                string // what an approver can run
	BreakGlass                             bool
	Reviews                                []ViewReview
	Comments                               []ViewComment
}

// ViewReview is an approver's answer in words.
type ViewReview struct{ Who, Did, For, Comment string }

// ViewComment is what somebody said.
type ViewComment struct{ Who, Text string }

// Fact is a label with what stands behind it.
type Fact struct{ Label, Value string }

// texts bounds what is shown of one value, in runes.
const texts = 300

// plain makes one line of a text, without control characters, marks that change the direction of what follows, characters that
// cannot be seen, or bytes that are no UTF-8.
func plain(s string, longest int) string {
	var b strings.Builder
	n, blank := 0, true // blanks at the beginning, and more than one, go
	for _, r := range s {
		switch {
		case r == utf8.RuneError, unicode.Is(unicode.Co, r):
			r = utf8.RuneError
		case unicode.IsSpace(r), r == 0x2028, r == 0x2029:
			r = ' '
		case unicode.IsControl(r), unicode.Is(unicode.Cf, r), r == 0x115f, r == 0x1160, r == 0x3164, r == 0xffa0, unicode.Is(unicode.Variation_Selector, r):
			continue
		}
		if r == ' ' && blank {
			continue
		}
		if n == longest {
			b.WriteRune('…')
			break
		}
		blank = r == ' '
		b.WriteRune(r)
		n++
	}
	return strings.TrimSpace(b.String())
}

// viewOf makes the view of an event; links are the portal's URL, "" for none. Each text then goes through escape.
func viewOf(e Event, links string, escape func(string) string) View {
	t := func(s string) string { return escape(plain(s, texts)) }
	v := View{Kind: t(string(e.Kind)), At: t(access.Clock(e.At)), Installation: t(e.Installation), Actor: t(e.Actor), Message: escape(plain(e.Message, 2*texts))}
	link := func(id string) {
		if links != "" && id != "" {
			v.Link = strings.TrimRight(links, "/") + "/requests/" + plain(id, 64)
		}
	}
	if g := e.Grant; g != nil {
		v.Grant = t(string(g.ID))
		link(string(g.Request))
		v.ID, v.Who, v.State = t(string(g.ID)), t(g.Requester), t(string(g.State))
		v.What, v.Machines, v.Source = t(g.Target.String()), t(g.Target.VM.Name), t(g.Source.String())
		v.For, v.Start, v.End = t(access.Duration(g.Duration).String()), t(when(g.StartsAt)), t(when(g.EndsAt))
		v.BreakGlass = g.BreakGlass
		trouble := g.LastError
		if trouble == "" {
			trouble = g.NotReady
		}
		v.Trouble = t(trouble)
		v.Exposes = t(exposes([]access.Target{g.Target}, g.Source))
	}
	if r := e.Request; r != nil {
		link(string(r.ID))
		var what, machines []string
		for _, g := range r.Terms.Targets {
			what = append(what, g.String())
			machines = append(machines, g.VM.Name)
		}
		v.ID, v.Who, v.Sponsor, v.State = t(string(r.ID)), t(r.Requester), t(r.Sponsor), t(string(r.State))
		v.What, v.Machines, v.Source = t(strings.Join(what, ", ")), t(strings.Join(machines, ", ")), t(r.Terms.Source.String())
		v.For, v.Start = t(access.Duration(r.Terms.Duration).String()), t(when(r.StartAt))
		v.Reason, v.Ticket, v.Extends, v.BreakGlass = t(r.Reason), t(r.Ticket), t(string(r.Extends)), r.BreakGlass
		v.Exposes = t(exposes(r.Terms.Targets, r.Terms.Source))
		if r.State == access.Pending {
			var waits []string
			for _, w := range access.Outstanding(r.Needs, r.Reviews, r.CreatedAt) {
				waits = append(waits, w.Step.Words())
			}
			v.Waits, v.Missing, v.Command = t(strings.Join(waits, "; ")), fmt.Sprint(r.Missing()), t("curfew approve "+string(r.ID))
		}
		v.Decided = t(decided(*r))
		for _, x := range r.Reviews {
			did := map[access.Decision]string{access.Approve: "approved", access.Deny: "denied"}[x.Decision]
			narrowed := ""
			if x.Narrowed != nil {
				narrowed = access.Duration(x.Narrowed.Duration).String() + " from " + x.Narrowed.Source.String()
			}
			v.Reviews = append(v.Reviews, ViewReview{t(x.Reviewer), t(did), t(narrowed), t(x.Comment)})
		}
		for _, c := range r.Comments {
			v.Comments = append(v.Comments, ViewComment{t(c.By), t(c.Text)})
		}
	}
	return v
}

func when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	return access.Clock(t)
}

// decided says who ended the wait, and how.
func decided(r access.Request) string {
	var who []string
	for _, x := range r.Reviews {
		if r.State == access.Approved && x.Decision == access.Approve || r.State == access.Denied && x.Decision == access.Deny {
			who = append(who, x.Reviewer)
		}
	}
	switch {
	case r.State == access.Pending:
		return ""
	case r.BreakGlass:
		return "opened before anybody agreed"
	case r.State == access.Approved && len(who) == 0:
		return "approved by rule " + strings.Join(r.Auto, ", ")
	case len(who) == 0:
		return string(r.State)
	}
	return string(r.State) + " by " + strings.Join(who, ", ")
}

// exposes says what an opening lets in.
func exposes(targets []access.Target, source netip.Prefix) string {
	if len(targets) == 0 || !source.IsValid() {
		return ""
	}
	var ports []string
	for _, t := range targets {
		name := "port "
		if t.Ports.First != t.Ports.Last {
			name = "ports "
		}
		ports = append(ports, name+t.Ports.String()+"/"+string(t.Protocol)+" of "+t.VM.Name)
	}
	to := "one address"
	if n := source.Addr().BitLen() - source.Bits(); n > 0 && n < 31 {
		to = fmt.Sprintf("%d addresses", 1<<n)
	} else if n > 0 {
		to = fmt.Sprintf("a network of /%d", source.Bits())
	}
	return strings.Join(ports, ", ") + " to " + to
}

// Facts lists what there is to say beside title and message.
func (v View) Facts() []Fact {
	var out []Fact
	add := func(label, value string) {
		if value != "" {
			out = append(out, Fact{label, value})
		}
	}
	if v.BreakGlass {
		add("Break-glass", "opened before anybody agreed")
	}
	add("Who", v.Who)
	add("Answers for it", v.Sponsor)
	add("What", v.What)
	add("Why", v.Reason)
	add("Ticket", v.Ticket)
	add("From", v.Source)
	add("For", v.For)
	add("Starts", v.Start)
	add("Ends", v.End)
	add("Lengthens", v.Extends)
	add("Lets in", v.Exposes)
	add("Must agree", v.Waits)
	add("State", v.State)
	add("Decided", v.Decided)
	add("Trouble", v.Trouble)
	for _, r := range v.Reviews {
		s := r.Did
		if r.For != "" {
			s += " for " + r.For
		}
		if r.Comment != "" {
			s += ": " + r.Comment
		}
		add(r.Who, s)
	}
	for _, c := range v.Comments {
		add(c.Who+" says", c.Text)
	}
	return out
}

// Package enforce is the contract of the back ends that write access into Azure, and what they have in common. A back end is
// level-based: it is told what a place should hold of ours, reads what it holds, and makes the one into the other in as few
// writes as it can. It decides nothing about who may have access.
package enforce

import (
	"context"
	"net/netip"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/inventory"
	"github.com/curfew-jit/curfew/internal/netsec"
)

// Shield is the standing refusal of a protected port at one place.
type Shield struct {
	VM           access.VM
	Destinations []netip.Addr // what stands for the machine there: never empty
	Ports        access.Ports
	Protocol     access.Protocol
	Exemptions   []access.Exemption
}

// Window is one grant at one place: destination, port and source that are to be let in until End.
type Window struct {
	Grant        access.GrantID
	VM           access.VM
	Destinations []netip.Addr
	Ports        access.Ports
	Protocol     access.Protocol
	Source       netip.Prefix
	End          time.Time // to the second
}

// Wanted is what one place should hold of this installation's. What it does not name and is ours is removed.
type Wanted struct {
	Shields  []Shield
	Windows  []Window
	Consents []string             // names of foreign rules that a person consented to replace (P3)
	Replaced []access.Replacement // foreign rules that stand replaced: they stay so
	Restore  []access.Replacement // foreign rules to be put back as they were
	Env      netsec.Env           // what tags and application security groups mean there
	// KeepShields leaves every deny and exemption of ours that stands, wanted or not: what is known of them may be out of date, and
	// taking one away would open a port.
	KeepShields bool
	Flush       Flush
}

// Flush says whether a change of a place's rules is to be applied to connections that are open, where the back end can (the group's
// flushConnection, FACTS 2.4). It concerns every connection through the place; those that the rules still allow go on.
type Flush int

// What it may be.
const (
	FlushAsIs Flush = iota // as whoever owns the place has it
	FlushOn                // a grant there ends its connections with it
	FlushBack              // we switched it on, and nothing needs it any more
)

// Held is what a place was seen to hold of ours, and of other installations'.
type Held struct {
	Place string
	Rules []HeldRule
}

// Kind is the kind of a rule of ours.
type Kind string

// The kinds, as they stand in a rule's name.
const (
	KindAllow  Kind = "allow"
	KindDeny   Kind = "deny"
	KindExempt Kind = "exempt"
)

// HeldRule is a rule that Curfew wrote, as its own name tells.
type HeldRule struct {
	Name         string
	Kind         Kind
	Installation string
	Grant        access.GrantID // of an allow; of several grants in one rule, the first
	End          time.Time      // of an allow; zero otherwise
	Shuts        string         // of a deny: protocol and ports, "tcp-22" or "udp-8000-8010"
	Priority     int
	Description  string
}

// ChangeKind says what happens to a rule.
type ChangeKind string

// The kinds of changes, in the words of a plan.
const (
	Add      ChangeKind = "add"
	Remove   ChangeKind = "remove"
	Rewrite  ChangeKind = "rewrite"   // a rule of ours
	SetAside ChangeKind = "set_aside" // a foreign rule, with consent; its original is kept
	Restore  ChangeKind = "restore"   // a foreign rule, back as it was
	Connect  ChangeKind = "flush"     // whether changes of rules end connections that are open
)

// Change is one line of a plan for one place.
type Change struct {
	Place    string     `json:"place"`
	Kind     ChangeKind `json:"kind"`
	Rule     string     `json:"rule"`
	Priority int        `json:"priority"`
	Access   string     `json:"access"`
	Summary  string     `json:"summary"` // what the rule says, in words: "deny tcp 22 to 10.0.0.4 from anywhere"
	Why      string     `json:"why"`
}

// Problem is something that the place cannot hold, with the rule that is in the way and what would help.
type Problem struct {
	Place   string           `json:"place"`
	VM      string           `json:"vm"`      // resource id, if it concerns one machine
	Grants  []access.GrantID `json:"grants"`  // the grants that do not stand because of it
	Rule    string           `json:"rule"`    // the foreign rule in the way
	Message string           `json:"message"` // what and why
	Hint    string           `json:"hint"`    // what next, for example --replace-rule NSG/RULE
	Exempt  string           `json:"exempt"`  // name of the exemption that has no place: what it keeps open would be lost
	Theirs  bool             `json:"theirs"`  // somebody else has decided about a rule that was set aside: it is not put back
}

// Result is what became of one place.
type Result struct {
	Place    string
	Changes  []Change
	Problems []Problem
	Wrote    bool                                          // something was sent and is known to stand
	Before   map[access.GrantID]bool                       // the wanted windows that stood before
	Until    map[access.GrantID]time.Time                  // until when what was read first lets the wanted windows in, by the rules' own names: it may be past, or earlier than wanted; absent: nothing does
	After    map[access.GrantID]bool                       // the wanted windows that stand now, as read after the write
	Shields  bool                                          // every wanted shield stands now
	Missing  []string                                      // names of standing denies and exemptions of ours that were expected and not there
	Altered  []string                                      // names of rules of ours that somebody had changed
	Leftover map[access.GrantID]error                      // not wanted, and still standing because it could not be removed
	Clean    bool                                          // as read last, nothing of ours lets in anybody who is not wanted: what is not wanted is shut
	Held     Held                                          // as read last
	Flushes  bool                                          // as read last, changes of rules are applied to open connections
	Snapshot func(*inventory.Snapshot) *inventory.Snapshot // puts what stands (or, in a dry run, would stand) into a snapshot
}

// Sync are the decisions that a back end asks for while it brings a place up to what is wanted.
type Sync struct {
	// Decide is called after the place was read, each time that it is read: the cloud before the store, so that what is granted
	// meanwhile is not taken for an orphan. It returns what the place should hold.
	Decide func(ctx context.Context, held Held) (Wanted, error)
	// Keep is called before a write that sets foreign rules aside, with their originals; if it fails nothing is written (P3).
	Keep func(ctx context.Context, originals []access.Replacement) error
	// KeepFlush is called before a write that switches on that changes end open connections; if it fails nothing is written (P3).
	KeepFlush func(ctx context.Context) error
	// Sending is called immediately before a write leaves, each time; opening tells whether any allow of ours is in it. Its
	// error stops the write. Windows that are over by then are found by the back end itself (P1).
	Sending func(opening bool) error
	// Expected names the rules of ours that were known to stand, for Result.Missing. May be nil.
	Expected func(name string) bool
	// Urgent says that something has to go: the place is then read before what is read for openings (P9).
	Urgent bool
	// DryRun plans and sends nothing.
	DryRun bool
}

// Properties says what a back end cannot do.
type Properties struct {
	Name       string
	EarlyClose bool // a window can be shut before its end
	Extend     bool // a window can be lengthened without a gap
}

// Backend writes access into Azure. All methods may be called concurrently, Sync for one place by one caller at a time; a
// second caller (another process) is met by conditional writes. All may be repeated.
type Backend interface {
	Properties() Properties
	// Locate says where the rules for a port of a machine must stand, all of them. A machine without any such place is
	// access.CodeUnprotectable.
	Locate(m inventory.Machine, ports access.Ports, proto access.Protocol) ([]access.Place, error)
	// Sync makes the place hold of this installation's exactly what s.Decide says, leaves everything else, and reads the place
	// again. It returns a Result also with an error, as far as it came. A place that is gone holds nothing: that is no error.
	Sync(ctx context.Context, place string, s Sync) (Result, error)
	// Shut removes the named rules of ours, whatever else stands there, one by one if it must; gone already is success. It
	// needs no store: the last resort of closings.
	Shut(ctx context.Context, place string, rules []string) error
	// Survey reads every place in a subscription that holds rules which Curfew wrote, whichever installation's.
	Survey(ctx context.Context, subscription string) ([]Held, error)
}

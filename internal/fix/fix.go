// Package fix puts right what a scan found: it plans everything first, writes what was confirmed, reads again and judges again.
//
// What it may touch is bounded by promise P3: it adds rules of its own before the rules of others, and changes a rule of somebody
// else's only where a person consented to that very rule by name, with the original on the disk before the write leaves. Steps are
// decided on what the resource providers say, never on Resource Graph, and again on what a place holds when it is written. Whatever
// was written can be given back with the undo file, as far as nobody has changed it since. A second run writes nothing. It is safe to
// break off anywhere: each write is whole in itself, and the next run goes on from what stands (P8).
//
// Just-in-time access itself is switched on by protect, on this computer or at a server: fix asks for it and does not do it again.
package fix

import (
	"cmp"
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// Protector switches just-in-time access on and off: *standalone.Session and *client.Client.
type Protector interface {
	PlanProtection(ctx context.Context, in api.ProtectInput) (api.ProtectPlan, error)
	Protect(ctx context.Context, in api.ProtectInput) (api.ProtectPlan, error)
}

// Config says what fix works with. Azure, Read and Judge are needed.
type Config struct {
	Azure *azure.Client
	// Read reads an estate from the resource providers themselves, anew each time: Resource Graph may be behind.
	Read func(ctx context.Context, subscriptions []string) (*estate.Estate, error)
	// Judge judges an estate as the scan did, every finding, whatever its status.
	Judge   func(*estate.Estate) []scan.Finding
	Protect Protector // nil: what needs it is left, and said
	Undo    string    // path of the undo file; "": nothing is kept, and narrowing rules of others is refused (P3)
	By      string    // who does it, for the undo file
	Clock   clock.Clock
}

// Backend is how just-in-time access is switched on.
type Backend string

// The back ends.
const (
	Curfew   Backend = "nsg"      // protect: rules in network security groups
	Defender Backend = "defender" // a just-in-time policy of Defender for Cloud
)

// Options are a person's choices. The zero value is the careful one.
type Options struct {
	ShutVirtualNetwork bool     // shut management ports to the virtual network as well; Bastion keeps its way in
	ReplaceRules       []string // NSG/RULE, GROUP/NSG/RULE, SUBSCRIPTION/GROUP/NSG/RULE or resource id: these rules of others may be narrowed
	RemoveDefender     []string // the same: these rules of Defender's that are past their end may be removed

	Backend     Backend        // "" is Curfew
	JITMax      time.Duration  // longest access time of a just-in-time policy; 0: three hours for a new one, as it is for one that stands
	JITFrom     []netip.Prefix // sources that may ask; none: any for a new one, as it is for one that stands
	JITLimit    time.Duration  // longest time that the scan tolerates; 0: scan.DefaultLongestJIT
	Delay       time.Duration  // notice of termination; 0: five minutes, or LeastDelay where that is longer
	LeastDelay  time.Duration  // the least that the scan asks for; 0: five minutes
	Upgrade     bool           // bring the instances of Manual scale sets, and the machines of Flexible ones, to the model
	Unavailable int            // percent of a set's instances that are upgraded at once; 0 is 20. At least one.
	Ports       []uint16       // management ports; none: 22, 3389, 5985, 5986
	Parallel    int            // places that are written at once; 0 is 8
}

// DefaultUndo is the undo file that is written where none is named.
func DefaultUndo(now time.Time) string {
	return "curfew-fix-" + now.UTC().Format("20060102T150405Z") + ".undo"
}

// Fixer plans and applies. Its methods may be called one after another.
type Fixer struct {
	c   Config
	rec *record
}

// New checks the configuration. It calls nobody.
func New(c Config) (*Fixer, error) {
	if c.Azure == nil || c.Read == nil || c.Judge == nil {
		return nil, errors.New("fix needs a client for Azure, a reader and a judge")
	}
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	if c.By == "" {
		c.By = "fix"
	}
	return &Fixer{c: c, rec: &record{path: c.Undo, by: c.By, now: c.Clock.Now}}, nil
}

func (o Options) normal() (Options, error) {
	if o.Backend == "" {
		o.Backend = Curfew
	}
	if o.Backend != Curfew && o.Backend != Defender {
		return o, invalid("backend", "the back end %q is not known", "use nsg or defender", o.Backend)
	}
	if o.LeastDelay == 0 {
		o.LeastDelay = leastNotice
	}
	if o.Delay == 0 {
		o.Delay = max(leastNotice, o.LeastDelay)
	}
	if o.Delay < leastNotice || o.Delay > longestNotice || o.Delay%time.Second != 0 {
		return o, invalid("delay", "a notice of termination of %s is not possible", "choose five to fifteen minutes: --delay 10m", o.Delay)
	}
	if o.Delay < o.LeastDelay {
		return o, invalid("delay", "a notice of %s is shorter than the least that the scan asks for", "choose at least "+o.LeastDelay.String(), o.Delay)
	}
	if o.JITMax != 0 && (o.JITMax < 5*time.Minute || o.JITMax > 24*time.Hour) {
		return o, invalid("max", "a longest access time of %s is not possible in a just-in-time policy", "choose five minutes to one day: --max 3h", o.JITMax)
	}
	if limit := cmp.Or(o.JITLimit, scan.DefaultLongestJIT); o.JITMax > limit {
		return o, invalid("max", "a longest access time of %s is longer than the %s that the scan tolerates", "choose at most "+access.Duration(limit).String()+", or let the scan tolerate more: --longest-jit", access.Duration(o.JITMax), access.Duration(limit))
	}
	if o.Unavailable == 0 {
		o.Unavailable = 20
	}
	if o.Unavailable < 1 || o.Unavailable > 100 {
		return o, invalid("max-unavailable", "%d percent is not possible", "choose 1 to 100", o.Unavailable)
	}
	if len(o.Ports) == 0 {
		o.Ports = scanPorts
	}
	if o.Parallel <= 0 {
		o.Parallel = 8
	}
	for _, l := range [][]string{o.ReplaceRules, o.RemoveDefender} {
		for _, s := range l {
			if _, rule := splitRule(s); rule == "" {
				return o, invalid("rule", "%q does not name a rule", "name the group and the rule: NSG/RULE", s)
			}
		}
	}
	return o, nil
}

var scanPorts = []uint16{22, 3389, 5985, 5986}

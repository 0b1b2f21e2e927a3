package enforce

import (
	"regexp"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// EndLayout is how an allow's name spells its end.
const EndLayout = "20060102T150405Z"

// ruleName is the whole grammar of our names (DESIGN 5). ARM compares names without case.
var ruleName = regexp.MustCompile(`(?i)^curfew-(?:` +
	`allow-([a-z0-9]{4,12})-([a-z0-9]{1,20})-([0-9]{8}T[0-9]{6}Z)` +
	`|deny-([a-z0-9]{4,12})-((?:tcp|udp)-[0-9]{1,5}(?:-[0-9]{1,5})?)(?:-n([0-9]{1,4}))?` +
	`|exempt-([a-z0-9]{4,12})-([a-z0-9]+(?:-[a-z0-9]+)*-(?:tcp|udp|any|icmp|esp|ah)-(?:[0-9]{1,5}(?:-[0-9]{1,5})?|some))(?:-n([0-9]{1,4}))?` +
	`)$`)

// FixDenyPrefix begins the names of the denies that curfew fix writes: the Internet is kept out of a management port, whoever asks.
// They are outside the grammar of enforcement, which does not write, repair or remove them; a granted window stands before them.
const FixDenyPrefix = "curfew-fix-deny-tcp-"

// ShutByFix tells whether a name is that of a deny of curfew fix.
func ShutByFix(name string) bool { return strings.HasPrefix(strings.ToLower(name), FixDenyPrefix) }

// ParseName reads the name of a rule that Curfew wrote, of whichever installation. Anything else, also a name that only begins
// like one of ours, is not ours. A name proves nothing: anybody who may write rules can give one.
func ParseName(name string) (HeldRule, bool) {
	m := ruleName.FindStringSubmatch(name)
	if m == nil {
		return HeldRule{}, false
	}
	h := HeldRule{Name: name}
	switch {
	case m[1] != "":
		end, err := time.Parse(EndLayout, strings.ToUpper(m[3]))
		if err != nil {
			return HeldRule{}, false
		}
		h.Kind, h.Installation, h.End = KindAllow, m[1], end
		h.Grant = access.GrantID("g-" + strings.ToLower(m[2]))
	case m[4] != "":
		h.Kind, h.Installation, h.Shuts = KindDeny, m[4], strings.ToLower(m[5])
	default:
		h.Kind, h.Installation = KindExempt, m[7]
	}
	h.Installation = strings.ToLower(h.Installation)
	return h, true
}

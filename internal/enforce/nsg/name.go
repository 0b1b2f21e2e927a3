package nsg

import (
	"fmt"
	"hash/fnv"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/enforce"
	"github.com/curfew-jit/curfew/internal/netsec"
)

var (
	installationName = regexp.MustCompile(`^[a-z0-9]{4,12}$`)
	grantName        = regexp.MustCompile(`^g-[a-z0-9]{1,20}$`)
	likeOurs         = regexp.MustCompile(`(?i)^curfew-(allow|deny|exempt)-`)
)

// CheckInstallation refuses what cannot be part of a rule's name: an installation is four to twelve of [a-z0-9].
func CheckInstallation(s string) error {
	if !installationName.MatchString(s) {
		return access.Errorf(access.CodeInvalid, "installation %q is not 4 to 12 lower-case letters and digits", s)
	}
	return nil
}

// Parse is enforce.ParseName.
func Parse(name string) (enforce.HeldRule, bool) { return enforce.ParseName(name) }

func parseRule(r azure.SecurityRule) (enforce.HeldRule, bool) {
	h, ok := Parse(r.Name)
	h.Priority, h.Description = r.Priority, r.Description
	return h, ok
}

func allowName(installation string, g access.GrantID, end time.Time) string {
	return fmt.Sprintf("curfew-allow-%s-%s-%s", installation, strings.TrimPrefix(string(g), "g-"), end.UTC().Format(enforce.EndLayout))
}

func denyName(installation string, proto access.Protocol, ports access.Ports) string {
	return fmt.Sprintf("curfew-deny-%s-%s-%s", installation, proto, ports)
}

func exemptName(installation, what, proto, ports string) string {
	return fmt.Sprintf("curfew-exempt-%s-%s-%s-%s", installation, slug(what), proto, ports)
}

// slug makes any text into a part of a name: at most 28 of [a-z0-9-], never empty.
func slug(s string) string {
	var b strings.Builder
	for _, c := range []byte(strings.ToLower(s)) {
		if c >= 'a' && c <= 'z' || c >= '0' && c <= '9' {
			b.WriteByte(c)
		} else if b.Len() > 0 && !strings.HasSuffix(b.String(), "-") {
			b.WriteByte('-')
		}
		if b.Len() == 28 {
			break
		}
	}
	if s := strings.Trim(b.String(), "-"); s != "" {
		return s
	}
	return "x"
}

// numbered is a base name with its number: the first of a base has none.
func numbered(base string, n int) string {
	if n == 1 {
		return base
	}
	return base + "-n" + strconv.Itoa(n)
}

var numberSuffix = regexp.MustCompile(`(?i)-n[0-9]{1,4}$`)

func baseOf(name string) string { return strings.ToLower(numberSuffix.ReplaceAllString(name, "")) }

// maxDescription is Azure's limit. FACTS 2.1.
const maxDescription = 140

// describe joins a lead and machine names as far as they fit, and leaves room for the seal.
func describe(lead string, machines []string) string {
	const room = maxDescription - len(" #00000000")
	var names []string
	for _, m := range machines {
		if m = printable(m); m != "" {
			names = append(names, m)
		}
	}
	slices.Sort(names)
	names = slices.Compact(names)
	s := printable(lead)
	for i, n := range names {
		part := ", " + n
		if i == 0 {
			part = " for " + n
		}
		more := fmt.Sprintf(" +%d", len(names)-i)
		reserve := 0
		if i < len(names)-1 {
			reserve = len(" +0000")
		}
		if len(s)+len(part)+reserve > room {
			if i > 0 && len(s)+len(more) <= room {
				s += more
			}
			break
		}
		s += part
	}
	return s[:min(len(s), room)]
}

func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '_'
		}
		return r
	}, s)
}

// sealed returns the rule with a checksum of its content at the end of its description. It tells a rule that somebody changed
// from one that merely is not what is wanted any more; it is no protection against somebody who means to deceive, and nothing
// that guards access rests on it.
func sealed(r azure.SecurityRule) azure.SecurityRule {
	r.Description += " #" + seal(r, r.Description)
	return r
}

var sealed8 = regexp.MustCompile(`^(.*) #([0-9a-f]{8})$`)

// intact tells whether the rule is as Curfew wrote it, whenever that was.
func intact(r azure.SecurityRule) bool {
	m := sealed8.FindStringSubmatch(r.Description)
	return m != nil && seal(r, m[1]) == m[2]
}

func seal(r azure.SecurityRule, description string) string {
	h := fnv.New32a()
	fmt.Fprintf(h, "%s|%s", contentOf(r), description)
	return fmt.Sprintf("%08x", h.Sum32())
}

// contentOf is what the rule says, in one spelling: the same for a rule as it was sent and as Azure gives it back.
func contentOf(r azure.SecurityRule) string {
	return strings.ToLower(fmt.Sprintf("%s|%d|%s|%s|%s|%s|%s|%s|%s|%s|%s", r.Name, r.Priority, r.Direction, r.Access, r.Protocol,
		spelled(r.SourcePrefixes), spelled(r.SourceASGs), ports(r.SourcePorts), spelled(r.DestinationPrefixes),
		spelled(r.DestinationASGs), ports(r.DestinationPorts)))
}

func spelled(texts []string) string {
	out := make([]string, len(texts))
	for i, t := range texts {
		out[i] = strings.ToLower(t)
		if p, ok := netsec.ParsePrefix(t); ok {
			out[i] = p.String()
		}
	}
	slices.Sort(out)
	return strings.Join(slices.Compact(out), ",")
}

func ports(texts []string) string {
	if len(texts) == 0 {
		return "*"
	}
	out := slices.Clone(texts)
	slices.Sort(out)
	return strings.Join(out, ",")
}

// same tells whether two rules of ours need no write to become equal.
func same(a, b azure.SecurityRule) bool {
	return a.Description == b.Description && contentOf(a) == contentOf(b)
}

func prefixText(p netip.Prefix) string {
	if p.Bits() == p.Addr().BitLen() {
		return p.Addr().String()
	}
	return p.String()
}

func addrTexts(as []netip.Addr) []string {
	out := make([]string, len(as))
	for i, a := range as {
		out[i] = a.String()
	}
	return out
}

// summary says in words what a rule of ours does.
func summary(r azure.SecurityRule) string {
	from := short(r.SourcePrefixes)
	if len(r.SourceASGs) > 0 {
		from = "application security groups"
	}
	if from == "*" {
		from = "anywhere"
	}
	return fmt.Sprintf("%s %s %s to %s from %s", strings.ToLower(r.Access), strings.ToLower(r.Protocol), short(r.DestinationPorts),
		short(r.DestinationPrefixes), from)
}

func short(texts []string) string {
	if len(texts) > 4 {
		return fmt.Sprintf("%s and %d more", strings.Join(texts[:3], ", "), len(texts)-3)
	}
	return strings.Join(texts, ", ")
}

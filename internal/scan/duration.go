package scan

import (
	"fmt"
	"math/bits"
	"strings"
	"time"
)

// longestDuration bounds what ParseDuration takes: far more than any setting of Azure allows, far less than overflows.
const longestDuration = 10 * 366 * 24 * time.Hour

// durationUnits are the designators of ISO 8601 in the order in which they may appear, before and after the T. Years and months have no
// fixed length and are not understood.
var durationUnits = []struct {
	letter byte
	time   bool
	unit   time.Duration
}{
	{'W', false, 7 * 24 * time.Hour},
	{'D', false, 24 * time.Hour},
	{'H', true, time.Hour},
	{'M', true, time.Minute},
	{'S', true, time.Second},
}

// ParseDuration reads an ISO 8601 duration as Azure spells its settings: PT5M, PT300S, PT0H5M, P0DT5M, P1D. Letters may be lower case, and
// the last number may have a fraction. Years, months, signs, empty durations, repeated or misplaced parts and anything above ten years
// are errors.
func ParseDuration(s string) (time.Duration, error) {
	bad := func(why string) (time.Duration, error) {
		shown := s
		if len(shown) > 40 {
			shown = shown[:40] + "…"
		}
		return 0, fmt.Errorf("%q is not a duration in ISO 8601: %s", shown, why)
	}
	if len(s) > 64 {
		return bad("it is too long")
	}
	rest := strings.ToUpper(s)
	if rest == "" || rest[0] != 'P' {
		return bad("it does not begin with P")
	}
	rest = rest[1:]
	var total time.Duration
	next, inTime, parts, fraction := 0, false, 0, false
	for rest != "" {
		if rest[0] == 'T' {
			if inTime {
				return bad("it has more than one T")
			}
			if rest = rest[1:]; rest == "" {
				return bad("nothing follows its T")
			}
			inTime = true
			continue
		}
		if fraction {
			return bad("only its last number may have a fraction")
		}
		whole, n := digits(rest)
		if n == 0 {
			return bad("it has no number where one is due")
		}
		if whole < 0 {
			return bad("a number is too large")
		}
		rest = rest[n:]
		part, scale := int64(0), uint64(1)
		if rest != "" && (rest[0] == '.' || rest[0] == ',') {
			rest = rest[1:]
			part, n = digits(rest)
			if n == 0 || n > 9 {
				return bad("its fraction is not of one to nine digits")
			}
			for range n {
				scale *= 10
			}
			rest, fraction = rest[n:], true
		}
		if rest == "" {
			return bad("a number has no unit")
		}
		at := -1
		for i := next; i < len(durationUnits); i++ {
			if u := durationUnits[i]; u.letter == rest[0] && u.time == inTime {
				at = i
				break
			}
		}
		if at < 0 {
			return bad(fmt.Sprintf("the unit %q is not understood there", rest[0]))
		}
		unit := durationUnits[at].unit
		if whole > int64(longestDuration/unit) {
			return bad("it is longer than ten years")
		}
		total += time.Duration(whole) * unit
		hi, lo := bits.Mul64(uint64(part), uint64(unit))
		q, _ := bits.Div64(hi, lo, scale) // part < scale, so the quotient is below the unit
		if total += time.Duration(q); total > longestDuration {
			return bad("it is longer than ten years")
		}
		rest, next = rest[1:], at+1
		parts++
	}
	if parts == 0 {
		return bad("it has no part")
	}
	return total, nil
}

// digits reads a number from the start of s: its value, -1 where it is beyond any duration, and how many bytes it takes.
func digits(s string) (value int64, n int) {
	for n < len(s) && s[n] >= '0' && s[n] <= '9' {
		if value >= 0 {
			if value = value*10 + int64(s[n]-'0'); value > 1e12 {
				value = -1
			}
		}
		n++
	}
	return value, n
}

// durationText spells a duration in words: 5 minutes, 3 hours 1 second.
func durationText(d time.Duration) string {
	var parts []string
	for _, u := range []struct {
		unit time.Duration
		name string
	}{{24 * time.Hour, "day"}, {time.Hour, "hour"}, {time.Minute, "minute"}, {time.Second, "second"}} {
		switch n := d / u.unit; {
		case n == 1:
			parts = append(parts, "1 "+u.name)
		case n > 1:
			parts = append(parts, fmt.Sprintf("%d %ss", n, u.name))
		}
		d %= u.unit
	}
	switch {
	case len(parts) == 0 && d == 0:
		return "no time"
	case d > 0:
		parts = append(parts, d.String())
	}
	return strings.Join(parts, " ")
}

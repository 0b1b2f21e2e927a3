package access

import (
	"strconv"
	"strings"
	"time"
)

// Duration is a time.Duration that is written "90m", "1h30m", "1d" in files and messages. It prints as hours, minutes and
// seconds without a part that is zero ("24h", "1h30s"), and what it prints it reads.
type Duration time.Duration

// longestDuration bounds what is read, far above every limit and far below what a time.Duration can hold.
const longestDuration = 10 * 366 * 24 * time.Hour

var durationUnits = []struct {
	letter byte
	unit   time.Duration
}{{'d', 24 * time.Hour}, {'h', time.Hour}, {'m', time.Minute}, {'s', time.Second}}

// ParseDuration reads "45m", "1h30m", "2d", in any case. Days are 24 hours; each unit stands at most once, the larger first.
// Negative, fractional and unit-less values are refused, and so is everything beyond ten years. Zero is read: whether it means
// anything is for the limits to say.
func ParseDuration(s string) (time.Duration, error) {
	rest := strings.ToLower(strings.TrimSpace(s))
	bad := invalid("duration", "duration %.80q is not understood", s).WithHint("write it like 45m, 1h30m or 1d")
	if rest == "" {
		return 0, bad
	}
	var total time.Duration
	units := durationUnits
	for rest != "" {
		i := strings.IndexFunc(rest, func(r rune) bool { return r < '0' || r > '9' })
		if i < 1 {
			return 0, bad
		}
		u := 0
		for u < len(units) && units[u].letter != rest[i] {
			u++
		}
		if u == len(units) {
			return 0, bad
		}
		n, err := strconv.ParseInt(rest[:i], 10, 64)
		if err != nil || n > int64(longestDuration/units[u].unit) || total > longestDuration-time.Duration(n)*units[u].unit {
			return 0, invalid("duration", "duration %.80q is too long", s).WithHint("write it like 45m, 1h30m or 1d")
		}
		total += time.Duration(n) * units[u].unit
		rest, units = rest[i+1:], units[u+1:]
	}
	return total, nil
}

// String implements fmt.Stringer. Parts of a second are cut off, so that a limit is never shown larger than it is.
func (d Duration) String() string {
	t := time.Duration(d)
	if t < time.Second {
		if t <= -time.Second {
			return t.Truncate(time.Second).String() // never read back: negative durations are refused
		}
		return "0s"
	}
	var b strings.Builder
	for _, u := range durationUnits[1:] {
		if n := t / u.unit; n > 0 {
			b.WriteString(strconv.FormatInt(int64(n), 10))
			b.WriteByte(u.letter)
			t -= n * u.unit
		}
	}
	return b.String()
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := ParseDuration(string(b))
	if err != nil {
		return err
	}
	*d = Duration(v)
	return nil
}

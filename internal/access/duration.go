package access

import (
	"strings"
	"time"
)

// Duration is a time.Duration that is written "90m", "1h30m", "1d" in files and messages: no part that is zero, no fractions.
type Duration time.Duration

// ParseDuration reads "45m", "1h30m", "2d". Days are 24 hours. Negative, fractional and unit-less values are refused.
func ParseDuration(s string) (time.Duration, error) {
	in := strings.TrimSpace(strings.ToLower(s))
	var total time.Duration
	rest, last := in, 0
	for rest != "" {
		n, i := int64(0), 0
		for i < len(rest) && rest[i] >= '0' && rest[i] <= '9' {
			if n = n*10 + int64(rest[i]-'0'); n > 1_000_000 {
				return 0, invalid("duration", "duration %q is too long", s)
			}
			i++
		}
		if i == 0 || i == len(rest) {
			return 0, badDuration(s)
		}
		rank, unit := 0, time.Duration(0)
		switch rest[i] {
		case 'd':
			rank, unit = 1, 24*time.Hour
		case 'h':
			rank, unit = 2, time.Hour
		case 'm':
			rank, unit = 3, time.Minute
		case 's':
			rank, unit = 4, time.Second
		}
		if rank <= last { // an unknown unit, or units out of order or twice
			return 0, badDuration(s)
		}
		total, rest, last = total+time.Duration(n)*unit, rest[i+1:], rank
	}
	if in == "" {
		return 0, badDuration(s)
	}
	return total, nil
}

func badDuration(s string) *Error {
	return invalid("duration", "duration %q is not understood", s).WithHint("write it like 45m, 1h30m or 1d")
}

// String implements fmt.Stringer.
func (d Duration) String() string {
	t := time.Duration(d)
	if t == 0 {
		return "0s"
	}
	if t < 0 {
		return t.String()
	}
	t = t.Round(time.Second)
	s := strings.TrimSuffix(t.String(), "0s")
	if s == "" || s[len(s)-1] >= '0' && s[len(s)-1] <= '9' { // "10s" lost its unit, or sub-second
		return t.String()
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// MarshalText implements encoding.TextMarshaler.
func (d Duration) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Duration) UnmarshalText(b []byte) error {
	v, err := ParseDuration(string(b))
	*d = Duration(v)
	return err
}

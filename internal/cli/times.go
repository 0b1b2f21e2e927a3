package cli

import (
	"fmt"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

// parseAt reads the start of an access: RFC 3339, "17:30" (today), "today 17:30", "tomorrow 09:00" or "2026-11-23 09:00", the latter
// in loc. What does not name exactly one instant there (a clock change skips it, or runs through it twice) is refused, not guessed.
func parseAt(s string, now time.Time, loc *time.Location) (time.Time, error) {
	in := strings.Join(strings.Fields(s), " ")
	for _, layout := range []string{time.RFC3339, "2006-01-02T15:04Z07:00"} {
		if t, err := time.Parse(layout, in); err == nil {
			return t, nil
		}
	}
	local := now.In(loc)
	day, clock := local, in
	dated := false
	if word, rest, ok := strings.Cut(in, " "); ok {
		clock, dated = rest, true
		switch strings.ToLower(word) {
		case "today":
		case "tomorrow":
			day = time.Date(local.Year(), local.Month(), local.Day()+1, 12, 0, 0, 0, loc)
		default:
			d, err := time.ParseInLocation("2006-01-02", word, loc)
			if err != nil {
				return time.Time{}, badTime(s)
			}
			day = d.Add(12 * time.Hour)
		}
	}
	c, err := time.Parse("15:04", clock)
	if err != nil || len(clock) != len("15:04") {
		return time.Time{}, badTime(s)
	}
	t := time.Date(day.Year(), day.Month(), day.Day(), c.Hour(), c.Minute(), 0, 0, loc)
	if t.Hour() != c.Hour() || t.Minute() != c.Minute() {
		return time.Time{}, badInput("start", "%s does not exist in %s: the clock skips it that day", s, loc).WithHint("write the instant with its offset, for example %s", t.UTC().Format(time.RFC3339))
	}
	for _, d := range []time.Duration{-time.Hour, time.Hour} {
		if o := t.Add(d); o.Hour() == t.Hour() && o.Minute() == t.Minute() {
			return time.Time{}, badInput("start", "%s comes twice in %s: the clock goes back that day", s, loc).
				WithHint("write %s or %s", t.UTC().Format(time.RFC3339), o.UTC().Format(time.RFC3339))
		}
	}
	if !dated && t.Before(now.Truncate(time.Minute)) {
		return time.Time{}, badInput("start", "%s is over for today: it is %s", s, clockTime(now, now, loc)).WithHint(`did you mean "tomorrow %s"?`, clock)
	}
	return t, nil
}

func badTime(s string) *access.Error {
	return badInput("start", "time %q is not understood", s).WithHint(`write it like 17:30, "tomorrow 09:00" or 2026-11-23T09:00:00Z`)
}

// clockTime is the clock time with its zone; the date stands before it on any other day than now's.
func clockTime(t, now time.Time, loc *time.Location) string {
	if t.IsZero() {
		return ""
	}
	t, now = t.In(loc), now.In(loc)
	zone := zoneName(t)
	switch {
	case t.Year() == now.Year() && t.YearDay() == now.YearDay():
		return t.Format("15:04 ") + zone
	case t.Year() == now.Year():
		return t.Format("Jan 2 15:04 ") + zone
	}
	return t.Format("2006-01-02 15:04 ") + zone
}

// zoneName is the abbreviation, or the offset where the database has only a number.
func zoneName(t time.Time) string {
	name, offset := t.Zone()
	if name == "" || name[0] == '+' || name[0] == '-' {
		return fmt.Sprintf("UTC%+03d:%02d", offset/3600, max(offset, -offset)%3600/60)
	}
	return name
}

// span is a duration to the minute, to the second below ten minutes: "1d2h", "2h5m", "43m", "4m30s".
func span(d time.Duration) string {
	sign := ""
	if d < 0 {
		sign, d = "-", -d
	}
	switch {
	case d >= 24*time.Hour:
		d = d.Truncate(time.Hour)
		days := d / (24 * time.Hour)
		s := fmt.Sprintf("%dd", days)
		if h := (d % (24 * time.Hour)) / time.Hour; h > 0 {
			s += fmt.Sprintf("%dh", h)
		}
		return sign + s
	case d >= 10*time.Minute:
		d = d.Truncate(time.Minute)
	default:
		d = d.Truncate(time.Second)
	}
	return sign + access.Duration(d).String()
}

// until is the time left first and the clock time second: "43m, until 16:05 UTC"; or by how much it is overdue.
func until(end, now time.Time, loc *time.Location) string {
	switch {
	case end.IsZero():
		return ""
	case now.Before(end):
		return span(end.Sub(now)) + ", until " + clockTime(end, now, loc)
	}
	return "over since " + clockTime(end, now, loc)
}

// ago is "12m ago".
func ago(t, now time.Time) string {
	if t.IsZero() {
		return ""
	}
	if d := now.Sub(t); d >= time.Second {
		return span(d) + " ago"
	}
	return "just now"
}

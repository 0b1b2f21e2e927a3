package policy

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	_ "time/tzdata" // zones wherever the program runs
)

// window is a compiled Window. Times of day are minutes since midnight; to may be 24 h, and is on the next day where it is not after
// from.
type window struct {
	days     [7]bool // by time.Weekday, of the day on which it begins
	from, to int
	zone     *time.Location
	text     string
}

var dayNames = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

func parseDay(s string) (time.Weekday, bool) {
	s = strings.ToLower(strings.TrimSpace(s))
	for i, n := range dayNames {
		if len(s) >= 3 && strings.HasPrefix(strings.ToLower(time.Weekday(i).String()), s) && s[:3] == n {
			return time.Weekday(i), true
		}
	}
	return 0, false
}

// parseTime reads "08:00"; 24:00 is the end of a day.
func parseTime(s string) (int, bool) {
	h, m, ok := strings.Cut(strings.TrimSpace(s), ":")
	a, err1 := strconv.ParseUint(h, 10, 8)
	b, err2 := strconv.ParseUint(m, 10, 8)
	if !ok || err1 != nil || err2 != nil || len(h) > 2 || len(m) != 2 || a > 24 || b > 59 || a == 24 && b > 0 {
		return 0, false
	}
	return int(a)*60 + int(b), true
}

func (w Window) compile(rule string) (out window, faults Faults) {
	bad := func(key, format string, args ...any) {
		faults = append(faults, w.marks.fault(key, rule, format, args...))
	}
	for _, d := range w.Days {
		lo, hi, ranged := strings.Cut(d, "-")
		a, ok := parseDay(lo)
		b := a
		if ranged && ok {
			b, ok = parseDay(hi)
		}
		if !ok {
			bad("days", "day %q is not one of mon, tue, wed, thu, fri, sat, sun, or a range as mon-fri", clip(d))
			continue
		}
		for i := a; ; i = (i + 1) % 7 {
			out.days[i] = true
			if i == b {
				break
			}
		}
	}
	if len(w.Days) == 0 {
		out.days = [7]bool{true, true, true, true, true, true, true}
	}
	out.to = 24 * 60
	var ok bool
	if w.From != "" {
		if out.from, ok = parseTime(w.From); !ok || out.from == 24*60 {
			bad("from", "from %q is not a time of day, as 08:00", clip(w.From))
		}
	}
	if w.To != "" {
		if out.to, ok = parseTime(w.To); !ok || out.to == 0 && w.From == "" {
			bad("to", "to %q is not a time of day, as 18:00, or 24:00 for the end of the day", clip(w.To))
		}
	}
	zone := w.Zone
	if zone == "" {
		zone = "UTC"
	}
	var err error
	if out.zone, err = time.LoadLocation(zone); err != nil || strings.EqualFold(zone, "local") {
		bad("zone", "there is no time zone %q; name it as Europe/Berlin", clip(w.Zone))
		out.zone = time.UTC
	}
	out.text = w.String()
	return out, faults
}

// String says the window: "mon-fri 08:00 to 18:00 Europe/Berlin".
func (w Window) String() string {
	days := "every day"
	if len(w.Days) > 0 {
		days = strings.ToLower(strings.Join(w.Days, ", "))
	}
	from, to, zone := w.From, w.To, w.Zone
	if from == "" {
		from = "00:00"
	}
	if to == "" {
		to = "24:00"
	}
	if zone == "" {
		zone = "UTC"
	}
	return fmt.Sprintf("%s %s to %s %s", days, from, to, zone)
}

// length returns how long it is by the wall.
func (w *window) length() time.Duration {
	n := w.to - w.from
	if n <= 0 {
		n += 24 * 60
	}
	return time.Duration(n) * time.Minute
}

// on returns when the window that begins on a day begins and ends. Where clocks are put back, a time of day comes twice: strict
// takes the later beginning and the earlier end, so that what lies between has the right time by the wall; otherwise it is the widest.
// Where they are put forward, a time that does not come is the instant of the change.
func (w *window) on(year int, month time.Month, day int, strict bool) (from, to time.Time) {
	next := day
	if w.to <= w.from {
		next++
	}
	return instant(year, month, day, w.from, w.zone, strict), instant(year, month, next, w.to, w.zone, !strict)
}

// instant returns when the clocks of a zone show a time of day: the later or the earlier of two.
func instant(year int, month time.Month, day, minutes int, zone *time.Location, later bool) time.Time {
	wall := time.Date(year, month, day, 0, minutes, 0, 0, time.UTC)
	var found []time.Time
	for _, near := range []time.Duration{-26 * time.Hour, 26 * time.Hour} {
		_, offset := wall.Add(near).In(zone).Zone()
		t := wall.Add(-time.Duration(offset) * time.Second)
		if _, have := t.In(zone).Zone(); have == offset {
			found = append(found, t)
		}
	}
	switch {
	case len(found) == 0: // it does not come: the change is where the zone of the instant that the old offset gives begins
		_, before := wall.Add(-26 * time.Hour).In(zone).Zone()
		start, _ := wall.Add(-time.Duration(before) * time.Second).In(zone).ZoneBounds()
		return start.UTC()
	case later:
		return slices.MaxFunc(found, time.Time.Compare)
	}
	return slices.MinFunc(found, time.Time.Compare)
}

// days calls f for the occurrences that may touch an interval.
func (w *window) occurrences(start, end time.Time, strict bool, f func(from, to time.Time) (more bool)) {
	first := start.In(w.zone).AddDate(0, 0, -2)
	last := end.In(w.zone).AddDate(0, 0, 1)
	for d, n := first, 0; !d.After(last) && n < 40; d, n = d.AddDate(0, 0, 1), n+1 {
		y, m, day := d.Date()
		if !w.days[time.Date(y, m, day, 12, 0, 0, 0, time.UTC).Weekday()] {
			continue
		}
		if from, to := w.on(y, m, day, strict); from.Before(to) && !f(from, to) {
			return
		}
	}
}

// within tells whether every instant of the interval lies in a window; windows that touch are as one.
func within(ws []window, start, end time.Time) bool {
	for at := start; ; {
		reach := at
		for i := range ws {
			ws[i].occurrences(at, at, true, func(from, to time.Time) bool {
				if !from.After(at) && to.After(reach) {
					reach = to
				}
				return true
			})
		}
		if !reach.Before(end) && reach.After(start) {
			return true
		}
		if !reach.After(at) {
			return false
		}
		at = reach
	}
}

// touches tells whether any instant of the interval lies in a window.
func touches(ws []window, start, end time.Time) bool {
	found := false
	for i := range ws {
		ws[i].occurrences(start, end, false, func(from, to time.Time) bool {
			found = found || from.Before(end) && to.After(start) || !start.Before(from) && start.Before(to)
			return !found
		})
	}
	return found
}

// next returns when a window opens that holds the duration, the first after now within three weeks.
func next(ws []window, now time.Time, d time.Duration) (time.Time, bool) {
	var best time.Time
	for i := range ws {
		ws[i].occurrences(now, now.AddDate(0, 0, 21), true, func(from, to time.Time) bool {
			if from.Before(now) {
				from = now
			}
			if to.Sub(from) >= d && (best.IsZero() || from.Before(best)) {
				best = from
			}
			return best.IsZero() || from.Before(best)
		})
	}
	return best, !best.IsZero()
}

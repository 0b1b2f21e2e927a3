package cli

import (
	"strings"
	"testing"
	"time"
	_ "time/tzdata" // Europe/Berlin on every machine

	"github.com/curfew-jit/curfew/internal/access"
)

func TestParseAt(t *testing.T) {
	berlin, err := time.LoadLocation("Europe/Berlin")
	if err != nil {
		t.Fatal(err)
	}
	now := time.Date(2026, 11, 22, 15, 30, 20, 0, time.UTC) // 16:30 in Berlin
	for in, want := range map[string]string{
		"2026-11-23T09:00:00Z":      "2026-11-23T09:00:00Z",
		"2026-11-23T09:00:00+01:00": "2026-11-23T08:00:00Z",
		"17:30":                     "2026-11-22T16:30:00Z",
		"16:30":                     "2026-11-22T15:30:00Z", // this minute still is
		"today 18:00":               "2026-11-22T17:00:00Z",
		"tomorrow 09:00":            "2026-11-23T08:00:00Z",
		"Tomorrow   09:00":          "2026-11-23T08:00:00Z",
		"2026-12-24 18:00":          "2026-12-24T17:00:00Z",
	} {
		got, err := parseAt(in, now, berlin)
		if err != nil || got.UTC().Format(time.RFC3339) != want {
			t.Errorf("%q: got %v, %v, want %s", in, got.UTC(), err, want)
		}
	}
	for in, hint := range map[string]string{
		"9:00": "17:30", "25:00": "17:30", "17:30:00": "17:30", "tomorrow": "17:30", "tomorrow 9": "17:30", "friday 09:00": "17:30", "": "17:30", "in 5m": "17:30",
		"2026-11-31 09:00": "17:30", "16:29": `"tomorrow 16:29"`, "2026-11-23T09:00:00": "17:30",
		"2027-03-28 02:30": "T", // skipped
		"2026-10-25 02:30": "2026-10-25T00:30:00Z or 2026-10-25T01:30:00Z",
	} {
		got, err := parseAt(in, now, berlin)
		if access.CodeOf(err) != access.CodeInvalid {
			t.Errorf("%q: got %v, %v, want a refusal", in, got, err)
			continue
		}
		if e := err.(*access.Error); !strings.Contains(e.Hint, hint) && !containsBoth(e.Hint, hint) {
			t.Errorf("%q: hint %q lacks %q", in, e.Hint, hint)
		}
	}
}

func containsBoth(hint, want string) bool {
	a, b, ok := strings.Cut(want, " or ")
	return ok && strings.Contains(hint, a) && strings.Contains(hint, b)
}

func TestTimesAreShownLeftFirstWithTheZone(t *testing.T) {
	berlin, _ := time.LoadLocation("Europe/Berlin")
	odd := time.FixedZone("", 5*3600+1800)
	now := time.Date(2026, 11, 22, 15, 30, 0, 0, time.UTC)
	for _, c := range []struct {
		end  time.Time
		loc  *time.Location
		want string
	}{
		{now.Add(43*time.Minute + 10*time.Second), time.UTC, "43m, until 16:13 UTC"},
		{now.Add(43 * time.Minute), berlin, "43m, until 17:13 CET"},
		{now.Add(4*time.Minute + 30*time.Second), time.UTC, "4m30s, until 15:34 UTC"},
		{now.Add(9 * time.Hour), time.UTC, "9h, until Nov 23 00:30 UTC"},
		{now.Add(50 * time.Hour), time.UTC, "2d2h, until Nov 24 17:30 UTC"},
		{now.AddDate(0, 2, 0), odd, "61d, until 2027-01-22 21:00 UTC+05:30"},
		{now, time.UTC, "over since 15:30 UTC"},
		{time.Time{}, time.UTC, ""},
	} {
		if got := until(c.end, now, c.loc); got != c.want {
			t.Errorf("until %v: got %q, want %q", c.end, got, c.want)
		}
	}
}

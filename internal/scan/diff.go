package scan

import (
	"slices"
	"strings"
)

// Rejudged is a finding that stands in both reports and is judged otherwise in the later one.
type Rejudged struct {
	Before Finding `json:"before"`
	After  Finding `json:"after"`
}

// Difference is what changed from one report to a later one. Only what fails or is unknown is compared: a finding that passes now has
// gone, or was never there.
type Difference struct {
	Appeared []Finding  `json:"appeared"` // fails or is unknown now, and did not before
	Gone     []Finding  `json:"gone"`     // failed or was unknown, and is neither any more
	Changed  []Rejudged `json:"changed"`  // status, severity or exposure differ
	// Doubtful are those of Gone that the later report may merely not have seen: it has gaps, or was asked about less. They are not
	// repeated in Gone (promise P10).
	Doubtful []Finding `json:"doubtful,omitempty"`
}

// Empty tells whether nothing changed.
func (d Difference) Empty() bool {
	return len(d.Appeared)+len(d.Gone)+len(d.Changed)+len(d.Doubtful) == 0
}

// Diff compares two reports. The lists keep the order of the reports: worst first. Reasons that only word the same verdict
// differently are no change.
func Diff(before, after Report) Difference {
	d := Difference{Appeared: []Finding{}, Gone: []Finding{}, Changed: []Rejudged{}}
	old := map[string]Finding{}
	for _, f := range before.Findings {
		if bad(f) {
			old[f.ID] = f
		}
	}
	now := map[string]bool{}
	for _, f := range after.Findings {
		if !bad(f) {
			continue
		}
		now[f.ID] = true
		was, ok := old[f.ID]
		switch {
		case !ok:
			d.Appeared = append(d.Appeared, f)
		case was.Status != f.Status || was.Severity != f.Severity || was.Exposure != f.Exposure:
			d.Changed = append(d.Changed, Rejudged{was, f})
		}
	}
	for _, f := range before.Findings {
		if !bad(f) || now[f.ID] {
			continue
		}
		if after.sees(f) {
			d.Gone = append(d.Gone, f)
		} else {
			d.Doubtful = append(d.Doubtful, f)
		}
	}
	return d
}

func bad(f Finding) bool { return f.Status == Fail || f.Status == Unknown }

// sees tells whether a report is sure of what it does not list.
func (r Report) sees(f Finding) bool {
	if len(r.Source.Subscriptions) > 0 && !slices.ContainsFunc(r.Source.Subscriptions, func(s string) bool { return strings.EqualFold(s, f.Subscription) }) {
		return false
	}
	return !slices.ContainsFunc(r.Gaps, func(g Gap) bool {
		return (g.Subscription == "" || strings.EqualFold(g.Subscription, f.Subscription)) && (g.Resource == "" || strings.EqualFold(g.Resource, f.Resource))
	})
}

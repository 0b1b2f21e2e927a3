package report

import (
	"crypto/sha256"
	"encoding/hex"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/scan"
)

// The OCSF form is one Compliance Finding (class 2003 of OCSF 1.8.0) for each finding and each gap, one JSON object a line. The
// profile is cloud. What the class has no attribute for stands in unmapped: exposure, evidence, the ways to fix it, why it is set aside.
const (
	ocsfVersion  = "1.8.0"
	ocsfCategory = 2    // Findings
	ocsfClass    = 2003 // Compliance Finding
	ocsfCreate   = 1    // activity: a finding was created
)

type ocsfEvent struct {
	ActivityID   int              `json:"activity_id"`
	ActivityName string           `json:"activity_name"`
	CategoryUID  int              `json:"category_uid"`
	CategoryName string           `json:"category_name"`
	ClassUID     int              `json:"class_uid"`
	ClassName    string           `json:"class_name"`
	TypeUID      int64            `json:"type_uid"`
	TypeName     string           `json:"type_name"`
	Time         int64            `json:"time"` // milliseconds since 1970
	SeverityID   int              `json:"severity_id"`
	Severity     string           `json:"severity"`
	StatusID     int              `json:"status_id"`
	Status       string           `json:"status"`
	StatusCode   string           `json:"status_code"`
	StatusDetail string           `json:"status_detail,omitempty"`
	Comment      string           `json:"comment,omitempty"`
	Message      string           `json:"message"`
	Metadata     ocsfMetadata     `json:"metadata"`
	Cloud        ocsfCloud        `json:"cloud"`
	Finding      ocsfFinding      `json:"finding_info"`
	Compliance   ocsfCompliance   `json:"compliance"`
	Resources    []ocsfResource   `json:"resources,omitempty"`
	Remediation  *ocsfRemediation `json:"remediation,omitempty"`
	Observables  []ocsfObservable `json:"observables,omitempty"`
	Unmapped     map[string]any   `json:"unmapped,omitempty"`
}

type ocsfMetadata struct {
	Version      string      `json:"version"`
	Profiles     []string    `json:"profiles"`
	Product      ocsfProduct `json:"product"`
	UID          string      `json:"uid"`
	Correlation  string      `json:"correlation_uid,omitempty"`
	EventCode    string      `json:"event_code,omitempty"`
	LogName      string      `json:"log_name"`
	OriginalTime string      `json:"original_time"`
}

type ocsfProduct struct {
	Name    string     `json:"name"`
	Vendor  string     `json:"vendor_name"`
	Version string     `json:"version,omitempty"`
	Feature ocsfEntity `json:"feature"`
}

type ocsfEntity struct {
	Name string `json:"name"`
}

type ocsfCloud struct {
	Provider  string       `json:"provider"`
	Partition string       `json:"cloud_partition,omitempty"`
	Region    string       `json:"region,omitempty"`
	Account   *ocsfAccount `json:"account,omitempty"`
}

type ocsfAccount struct {
	UID    string `json:"uid"`
	Type   string `json:"type"`
	TypeID int    `json:"type_id"`
}

type ocsfFinding struct {
	UID      string        `json:"uid"`
	Title    string        `json:"title"`
	Desc     string        `json:"desc"`
	Types    []string      `json:"types,omitempty"`
	Analytic *ocsfAnalytic `json:"analytic,omitempty"`
}

type ocsfAnalytic struct {
	UID    string `json:"uid"`
	Name   string `json:"name"`
	Desc   string `json:"desc,omitempty"`
	Type   string `json:"type"`
	TypeID int    `json:"type_id"`
}

type ocsfCompliance struct {
	Control      string      `json:"control"`
	Desc         string      `json:"desc,omitempty"`
	Standards    []string    `json:"standards,omitempty"`
	Requirements []string    `json:"requirements,omitempty"`
	StatusID     int         `json:"status_id"`
	Status       string      `json:"status"`
	StatusCode   string      `json:"status_code"`
	Details      []string    `json:"status_details"`
	Checks       []ocsfCheck `json:"checks,omitempty"`
}

type ocsfCheck struct {
	UID        string   `json:"uid"`
	Name       string   `json:"name"`
	Desc       string   `json:"desc,omitempty"`
	Standards  []string `json:"standards,omitempty"`
	StatusID   int      `json:"status_id"`
	Status     string   `json:"status"`
	SeverityID int      `json:"severity_id"`
	Severity   string   `json:"severity"`
}

type ocsfResource struct {
	UID       string      `json:"uid"`
	Name      string      `json:"name,omitempty"`
	Type      string      `json:"type,omitempty"`
	Provider  string      `json:"provider"`
	Partition string      `json:"cloud_partition,omitempty"`
	Region    string      `json:"region,omitempty"`
	Group     *ocsfEntity `json:"group,omitempty"`
	Tags      []ocsfPair  `json:"tags,omitempty"`
	RoleID    int         `json:"role_id"`
	Role      string      `json:"role"`
}

type ocsfPair struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type ocsfRemediation struct {
	Desc string `json:"desc"`
}

type ocsfObservable struct {
	Name   string `json:"name"`
	Value  string `json:"value"`
	Type   string `json:"type"`
	TypeID int    `json:"type_id"`
}

// ocsfSeverity is the severity of an event: of the finding where it fails or is not known, and informational where nothing is wrong.
func ocsfSeverity(f *scan.Finding) (int, string) {
	if f.Status == scan.Pass || f.Status == scan.NotApplicable {
		return 1, "Informational"
	}
	switch f.Severity {
	case scan.Critical:
		return 5, "Critical"
	case scan.High:
		return 4, "High"
	case scan.Medium:
		return 3, "Medium"
	case scan.Low:
		return 2, "Low"
	}
	return 0, "Unknown"
}

// ocsfVerdict is the status of the check. The class knows no "not applicable"; 99 is told by the source's own word.
func ocsfVerdict(s scan.Status) (int, string) {
	switch s {
	case scan.Pass:
		return 1, "Pass"
	case scan.Fail:
		return 3, "Fail"
	case scan.NotApplicable:
		return 99, "Not Applicable"
	}
	return 0, "Unknown"
}

// ocsfState is the state of the finding as a thing that people work through.
func ocsfState(f *scan.Finding) (int, string) {
	switch {
	case f.Suppressed != nil:
		return 3, "Suppressed"
	case f.Known:
		return 99, "Baseline"
	case f.Status == scan.Pass, f.Status == scan.NotApplicable:
		return 99, "No Issue"
	}
	return 1, "New"
}

func writeOCSF(w *out, r *scan.Report, o Options) error {
	write := func(w *out, e ocsfEvent) error {
		if err := encodeTo(w, e, "", ""); err != nil {
			return err
		}
		w.put("\n")
		return w.err()
	}
	err := parts(w, len(r.Findings), func(w *out, i int) error { return write(w, ocsfOf(r, o.full(&r.Findings[i]), o)) })
	if err != nil {
		return err
	}
	if complete(r) {
		return w.err()
	}
	for _, g := range gaps(r) {
		if err := write(w, ocsfGap(r, g, o)); err != nil {
			return err
		}
	}
	return w.err()
}

// ocsfBase is what every event has. The event's id is of finding and instant alone, so that an export that is sent twice is told as one.
func ocsfBase(r *scan.Report, uid, subscription, location string, o Options) ocsfEvent {
	sum := sha256.Sum256([]byte(uid + "\x00" + r.At.UTC().Format(time.RFC3339Nano)))
	e := ocsfEvent{ActivityID: ocsfCreate, ActivityName: "Create", CategoryUID: ocsfCategory, CategoryName: "Findings", ClassUID: ocsfClass,
		ClassName: "Compliance Finding", TypeUID: ocsfClass*100 + ocsfCreate, TypeName: "Compliance Finding: Create", Time: r.At.UnixMilli(),
		Metadata: ocsfMetadata{Version: ocsfVersion, Profiles: []string{"cloud"}, UID: hex.EncodeToString(sum[:16]), Correlation: safe(r.ID),
			Product: ocsfProduct{"Curfew", "Curfew", safe(o.Version), ocsfEntity{"scan"}}, LogName: "curfew scan",
			OriginalTime: r.At.UTC().Format(time.RFC3339Nano)},
		Cloud: ocsfCloud{Provider: "Azure", Partition: safe(r.Source.Cloud), Region: safe(location)}}
	if subscription != "" {
		e.Cloud.Account = &ocsfAccount{safe(subscription), "Azure Subscription", 13}
	}
	return e
}

func ocsfOf(r *scan.Report, f *scan.Finding, o Options) ocsfEvent {
	e := ocsfBase(r, f.ID, f.Subscription, f.Location, o)
	e.SeverityID, e.Severity = ocsfSeverity(f)
	e.StatusID, e.Status = ocsfState(f)
	e.StatusCode, e.StatusDetail = safe(string(f.Status)), safe(f.Reason)
	e.Message = name(f) + ": " + safe(f.Reason)
	e.Metadata.EventCode = safe(string(f.Rule))
	rule, ok := scan.RuleOf(f.Rule)
	if !ok {
		rule.Title = title(f.Rule)
	}
	e.Finding = ocsfFinding{UID: f.ID, Title: rule.Title, Desc: safe(f.Reason), Types: []string{safe(string(f.Rule))},
		Analytic: &ocsfAnalytic{safe(string(f.Rule)), rule.Title, rule.Fails, "Rule", 1}}
	var standards, requirements []string
	for _, c := range f.Compliance {
		standards = add(standards, safe(c.Framework))
		requirements = add(requirements, safe(c.Framework)+" "+safe(c.Control))
	}
	id, word := ocsfVerdict(f.Status)
	e.Compliance = ocsfCompliance{Control: safe(string(f.Rule)), Desc: rule.Fails, Standards: standards, Requirements: requirements, StatusID: id, Status: word,
		StatusCode: safe(string(f.Status)), Details: []string{safe(f.Reason)},
		Checks: []ocsfCheck{{safe(string(f.Rule)), rule.Title, rule.Risk, standards, id, word, e.SeverityID, e.Severity}}}
	res := ocsfResource{UID: safe(f.Resource), Name: name(f), Type: safe(f.Type), Provider: "Azure", Partition: e.Cloud.Partition, Region: safe(f.Location),
		RoleID: 3, Role: "Affected"}
	if f.Group != "" {
		res.Group = &ocsfEntity{safe(f.Group)}
	}
	for _, k := range sortedKeys(f.Tags) {
		res.Tags = append(res.Tags, ocsfPair{safe(k), safe(f.Tags[k])})
	}
	e.Resources = []ocsfResource{res}
	e.Observables = ocsfObservables(f)
	e.Unmapped = map[string]any{"evidence": f.Evidence, "counts": f.Counts()}
	if f.Exposure != "" {
		e.Unmapped["exposure"] = f.Exposure
	}
	if m := f.Remediation; m != nil {
		e.Remediation = &ocsfRemediation{safe(m.Summary)}
		e.Unmapped["remediation"] = m
	}
	if len(f.Compliance) > 0 {
		e.Unmapped["compliance"] = f.Compliance
	}
	if s := f.Suppressed; s != nil {
		e.Comment = strings.TrimSpace(aside(f) + ": " + safe(s.Reason))
		e.Unmapped["suppressed"] = s
	}
	return e
}

// ocsfObservables are what a SIEM looks things up by: the resource and the public addresses in the evidence.
func ocsfObservables(f *scan.Finding) []ocsfObservable {
	all := []ocsfObservable{{"resources[0].uid", safe(f.Resource), "Resource UID", 10}}
	for i, p := range f.Evidence.Ports {
		for j, w := range p.Ways {
			if w.Address != "" {
				all = append(all, ocsfObservable{"unmapped.evidence.ports[" + strconv.Itoa(i) + "].ways[" + strconv.Itoa(j) + "].address", safe(w.Address), "IP Address", 2})
			}
		}
	}
	return all
}

// ocsfGap is a gap as a finding whose check could not be made.
func ocsfGap(r *scan.Report, g scan.Gap, o Options) ocsfEvent {
	sum := sha256.Sum256([]byte("gap\x00" + g.Source + "\x00" + g.Subscription + "\x00" + strings.ToLower(g.Resource) + "\x00" + g.Type))
	uid := "gap-" + hex.EncodeToString(sum[:8])
	text := "NOT complete: " + gapText(g)
	e := ocsfBase(r, uid, g.Subscription, "", o)
	e.Severity, e.StatusID, e.Status, e.StatusCode, e.StatusDetail, e.Message = "Unknown", 1, "New", string(scan.Unknown), text, text
	e.Metadata.EventCode = "not-complete"
	e.Finding = ocsfFinding{UID: uid, Title: "Scan not complete", Desc: text, Types: []string{"not-complete"}}
	e.Compliance = ocsfCompliance{Control: "not-complete", Status: "Unknown", StatusCode: string(scan.Unknown), Details: []string{text}}
	if g.Resource != "" {
		e.Resources = []ocsfResource{{UID: safe(g.Resource), Name: short(g.Resource, ""), Provider: "Azure", RoleID: 3, Role: "Affected"}}
	}
	e.Unmapped = map[string]any{"gap": g}
	return e
}

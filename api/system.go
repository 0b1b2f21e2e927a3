package api

import (
	"net/netip"
	"time"
)

// Me is who the server takes the caller for.
type Me struct {
	Name         string     `json:"name"`
	Roles        []string   `json:"roles"`
	Groups       []string   `json:"groups,omitempty" doc:"As the issuer tells them"`
	Kind         string     `json:"kind,omitempty" doc:"Of a program: workload or token" enum:"workload,token"`
	Sponsor      string     `json:"sponsor,omitempty" doc:"Who answers for the program"`
	Session      bool       `json:"session,omitempty" doc:"You signed in through the issuer: POST /v1/logout ends it"`
	Address      netip.Addr `json:"address,omitzero" doc:"Where the call came from: what my-ip means"`
	Demo         bool       `json:"demo"`
	Installation string     `json:"installation"`
	Version      string     `json:"version"`
}

// AuditEntry is one thing that happened, as it stands in the audit log.
type AuditEntry struct {
	Index       int64             `json:"index" doc:"Position in the log, from 0"`
	At          time.Time         `json:"at"`
	Actor       string            `json:"actor"`
	Action      string            `json:"action" doc:"object.verb, for example request.create"`
	Outcome     string            `json:"outcome" doc:"intent, done, refused or failed"`
	Object      string            `json:"object,omitempty"`
	VM          string            `json:"vm,omitempty"`
	Request     string            `json:"request,omitempty"`
	Message     string            `json:"message"`
	Detail      map[string]string `json:"detail,omitempty"`
	Correlation string            `json:"correlation,omitempty"`
	Late        bool              `json:"late,omitempty" doc:"Recorded after the fact, because the log could not be written then"`
}

// Status is the server's own state.
type Status struct {
	Ready     bool      `json:"ready"`
	Hold      string    `json:"hold,omitempty" doc:"Why nothing opens, if so"`
	Store     string    `json:"store,omitempty" doc:"What is wrong with the store"`
	Azure     string    `json:"azure,omitempty" doc:"What is wrong with Azure"`
	SignIn    string    `json:"sign_in,omitempty" doc:"What is wrong with the issuer through which people sign in"`
	Policy    string    `json:"policy,omitempty" doc:"Why the newest policy is not in force, in full for admins; the one before stays"`
	LastSweep time.Time `json:"last_sweep,omitzero"`
	Spooled   int       `json:"spooled" doc:"Entries that wait to be recorded"`
	Live      int       `json:"live"`
	Overdue   int       `json:"overdue"`
	Demo      bool      `json:"demo"`
	Version   string    `json:"version"`
}

// SweepReport says what a sweep found and did.
type SweepReport struct {
	At       time.Time `json:"at,omitzero"`
	Places   int       `json:"places" doc:"Places read"`
	Live     int       `json:"live" doc:"Grants that should be open"`
	Closed   []string  `json:"closed" doc:"Rules removed that were over or nobody's"`
	Repaired []string  `json:"repaired" doc:"Drift put right"`
	Failed   []string  `json:"failed" doc:"What could not be done, with the reason"`
	Unread   []string  `json:"unread" doc:"What could not be read"`
}

// Readiness is the answer of /readyz.
type Readiness struct {
	Ready   bool     `json:"ready"`
	Reasons []string `json:"reasons,omitempty"`
}

// Checkpoint is the head of the audit log at one instant: whoever keeps it can prove later that nothing before it was changed.
type Checkpoint struct {
	Origin string `json:"origin" doc:"The name of the log"`
	Size   int64  `json:"size" doc:"Entries in the log"`
	Root   string `json:"root" doc:"Root hash of the Merkle tree, base64"`
	Text   string `json:"text" doc:"The checkpoint in the form of C2SP tlog-checkpoint, signed if the server has a key: what is kept and compared"`
	// Unsigned is set only where there is a key.
	Unsigned string `json:"unsigned,omitempty" doc:"Why it is not signed, although the server has a key"`
}

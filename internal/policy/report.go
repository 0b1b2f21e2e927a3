package policy

import "time"

// Info is the policy that is in force.
type Info struct {
	Digest  string `json:"digest" doc:"The same for policies that say the same"`
	Rules   int    `json:"rules" doc:"How many, nested ones included"`
	Text    string `json:"text" doc:"YAML, in its one form: without comments"`
	Refused string `json:"refused,omitempty" doc:"Why the newest text is not in force, if it is not"`
}

// WhoReport says who can get into a machine, within what, and who must agree.
type WhoReport struct {
	ID      string     `json:"id" doc:"Resource id of the machine"`
	Machine Machine    `json:"machine"`
	Digest  string     `json:"digest" doc:"Of the policy"`
	Ways    []RuleView `json:"ways" doc:"What each rule that is about the machine says, those that deny first. Of those that match an ask the strictest wins"`
}

// ReplayReport is what would have become of past requests under another policy.
type ReplayReport struct {
	Digest   string     `json:"digest" doc:"Of the policy that was tried"`
	Since    time.Time  `json:"since"`
	Requests int        `json:"requests" doc:"How many were decided again"`
	Same     int        `json:"same" doc:"For how many nothing changes"`
	Cut      bool       `json:"cut,omitempty" doc:"There were more than are looked at, and the oldest were left out"`
	Changed  []Replayed `json:"changed" doc:"Newest first"`
}

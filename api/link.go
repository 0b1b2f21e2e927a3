package api

import "time"

// Link says that an identity elsewhere is a person here.
type Link struct {
	ID        string    `json:"id" doc:"For example slack:T0123456789:U0123456789"`
	Kind      string    `json:"kind" doc:"slack"`
	Team      string    `json:"team" doc:"Id of the workspace"`
	User      string    `json:"user" doc:"Id of the user there"`
	Name      string    `json:"name,omitempty" doc:"What they are called there; nothing is decided by it"`
	Person    string    `json:"person"`
	CreatedAt time.Time `json:"created_at,omitzero" doc:"Absent: it is not made yet, and waits for the confirmation"`
}

// LinkInput claims an identity with a code that was shown to it.
type LinkInput struct {
	Kind    string `json:"kind" doc:"slack"`
	Code    string `json:"code"`
	Confirm string `json:"confirm,omitempty" doc:"Id of the link: makes it. Absent: only says whose code it is"`
}

package api

import "time"

// Notice is something that a channel is told, or was, or could not be.
type Notice struct {
	ID        string    `json:"id"`
	State     string    `json:"state" doc:"waiting, sent, or dead: given up"`
	Channel   string    `json:"channel"`
	Kind      string    `json:"kind" doc:"What happened, for example request.created"`
	Subject   string    `json:"subject" doc:"The request that it is about; notices of one go to a channel one after another"`
	Message   string    `json:"message"`
	Attempts  int       `json:"attempts"`
	LastError string    `json:"last_error,omitempty"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	NextAt    time.Time `json:"next_at,omitzero" doc:"While it waits: not tried before"`
	SentAt    time.Time `json:"sent_at,omitzero"`
}

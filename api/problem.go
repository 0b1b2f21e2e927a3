package api

// ProblemType is the media type of a Problem.
const ProblemType = "application/problem+json"

// Problem is an error as RFC 9457 writes it. Detail is safe to show and says what and why; Hint is the next step.
type Problem struct {
	Type        string `json:"type" doc:"A URI for the kind of problem: urn:curfew:problem: and the code" example:"urn:curfew:problem:not_protected"`
	Title       string `json:"title" doc:"A summary, the same for every problem of this type"`
	Status      int    `json:"status" doc:"The HTTP status"`
	Detail      string `json:"detail" doc:"What went wrong and why; safe to show"`
	Instance    string `json:"instance,omitempty" doc:"The path that was called"`
	Code        Code   `json:"code" doc:"The stable code: programs decide by it" example:"not_protected"`
	Hint        string `json:"hint,omitempty" doc:"What to do next"`
	Field       string `json:"field,omitempty" doc:"The input field at fault, if one is"`
	Correlation string `json:"correlation" doc:"Stands in the server's log with the call"`
}

// Error implements error.
func (p *Problem) Error() string {
	if p.Detail != "" {
		return p.Detail
	}
	return p.Title
}

// GetStatus returns the HTTP status.
func (p *Problem) GetStatus() int { return p.Status }

// ContentType returns the media type under which a problem is sent.
func (p *Problem) ContentType(string) string { return ProblemType }

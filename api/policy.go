package api

// PolicyText is the text of a policy.
type PolicyText struct {
	Text string `json:"text" maxLength:"8000000" doc:"YAML; several files of a folder are joined by the sender"`
}

package notify

import "slices"

// Route says which events a channel gets.
type Route struct {
	Name  string
	Kinds []Kind // empty: every kind
	All   bool   // also of requests whose rules do not name the channel
}

// Takes tells whether the channel gets an event; named are the channels that the rules of its request name.
func (r Route) Takes(k Kind, named []string) bool {
	return (len(r.Kinds) == 0 || slices.Contains(r.Kinds, k)) && (r.All || slices.Contains(named, r.Name))
}

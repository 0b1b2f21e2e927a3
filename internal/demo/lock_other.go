//go:build !unix

package demo

// lock does nothing here: the database's own lock keeps a second demo out.
func lock(string) (func(), error) { return func() {}, nil }

package cli

import "testing"

// What a hint tells people to run must run as it stands: the same program, server and account, but never as somebody else's account.
func TestShownCommand(t *testing.T) {
	cases := []struct {
		verb, hint, want string
		given            map[string]string
	}{
		{"create", "see it with: curfew grant show g-1", "see it with: P --server http://x:1 --as requester grant show g-1", map[string]string{"server": "http://x:1", "as": "requester"}},
		{"create", "see it with: curfew grant show g-1", "see it with: P grant show g-1", nil},
		{"show", "see: curfew whoami --server http://y", "see: P --token-file 'my token' whoami --server http://y", map[string]string{"server": "http://y", "token-file": "my token"}},
		{"approve", "another approver can, with: curfew approve r-1; you can take it back with: curfew request cancel r-1",
			"another approver can, with: P --server s approve r-1; you can take it back with: P --server s --as both request cancel r-1", map[string]string{"server": "s", "as": "both"}},
		{"create", "an admin looks at what is live (curfew grant list) and then confirms with: curfew reconcile --resume",
			"an admin looks at what is live (P grant list) and then confirms with: P reconcile --resume", map[string]string{"as": "requester"}},
		{"create", "protect it first: curfew protect web-01 --port 22", "protect it first: P --ca f protect web-01 --port 22", map[string]string{"as": "requester", "ca": "f"}},
		{"protect", "consent to it with: curfew protect web-01", "consent to it with: P --as admin protect web-01", map[string]string{"as": "admin"}},
		{"list", "start one with: curfew demo   (or: curfew serve), or name one with --server", "start one with: P demo   (or: P serve), or name one with --server", map[string]string{"as": "admin"}},
		{"create", "see: curfew request --help", "see: P request --help", map[string]string{"as": "admin"}},
		{"create", "usage: curfew approve REQUEST", "usage: P approve REQUEST", map[string]string{"as": "admin"}},
		{"create", "see: curfew --help", "see: P --help", map[string]string{"as": "admin"}},
		{"show", "see what is with: curfew vm list --standalone", "see what is with: P vm list --standalone", map[string]string{"as": "admin"}},
		{"show", "see what decides with: curfew plan request a\nshut it with: curfew grant close g", "see what decides with: P --as r plan request a\nshut it with: P --as r grant close g", map[string]string{"as": "r"}},
		{"list", "act as one of the demo's accounts: curfew --as requester …", "act as one of the demo's accounts: P --as requester …", map[string]string{"server": "s"}},
		{"show", "the curfew is over", "the curfew is over", map[string]string{"as": "r"}},
	}
	for _, c := range cases {
		x := &cli{Env: Env{Program: "P"}, verb: c.verb, server: c.given["server"], as: c.given["as"], tokenFile: c.given["token-file"], ca: c.given["ca"],
			given: func(f string) bool { _, ok := c.given[f]; return ok }}
		if got := x.shownCommand(c.hint); got != c.want {
			t.Errorf("got  %q\nwant %q", got, c.want)
		}
	}
}

package cli

import (
	"regexp"
	"strings"
)

// shownStart is where a command begins in what people are told to do next, with its verb.
var shownStart = regexp.MustCompile(`(?m)(^|: |with |\()curfew (--|[a-z][a-z-]*)`)

// here are the commands that ask no server.
var here = map[string]bool{"demo": true, "sim": true, "serve": true, "sweep": true, "completion": true, "help": true, "version": true}

// kin are commands that take a role of their own: whoever runs one may run those of the same number, and who runs another may not.
var kin = map[string]int{"protect": 1, "unprotect": 1, "approve": 2, "deny": 2, "reconcile": 3}

// shownCommand makes the commands in a hint such as can be run as they stand: with the program as the user started it, and the server
// that was named. The account goes along too, but not where the command is for somebody else.
func (c *cli) shownCommand(hint string) string {
	var b strings.Builder
	last := 0
	for _, m := range shownStart.FindAllStringSubmatchIndex(hint, -1) {
		verb := hint[m[4]:m[5]]
		before := hint[strings.LastIndexAny(hint[:m[3]], ";\n")+1 : m[3]]
		line, _, _ := strings.Cut(hint[m[4]:], "\n")
		b.WriteString(hint[last:m[3]])
		last = m[4]
		b.WriteString(c.program())
		if here[verb] || verb == "--" || strings.Contains(line, " --standalone") || strings.HasSuffix(line, " --help") || strings.HasSuffix(before, "usage: ") {
			b.WriteByte(' ')
			continue
		}
		own := !strings.Contains(before, "approver") && !strings.Contains(before, "admin") && !strings.Contains(before, "requester") && verb != "login" && verb != "logout"
		b.WriteString(c.globals(own && (kin[verb] == 0 || kin[verb] == kin[c.verb]), !strings.Contains(line, " --server ")))
		b.WriteByte(' ')
	}
	return b.String() + hint[last:]
}

// command is a command of the user's own, as it can be run.
func (c *cli) command(rest string) string { return c.shownCommand("curfew " + rest) }

func (c *cli) program() string {
	if c.Program == "" {
		return "curfew"
	}
	return c.Program
}

// globals are the global options that say which server, and who, as they were given. What came from the environment is still there.
func (c *cli) globals(who, server bool) string {
	if c.given == nil {
		return ""
	}
	var argv []string
	add := func(flag, value string) {
		if c.given(flag) {
			argv = append(argv, "--"+flag, value)
		}
	}
	if server {
		add("server", c.server)
	}
	add("ca", c.ca)
	if who {
		add("token-file", c.tokenFile)
		add("as", c.as)
	}
	if len(argv) == 0 {
		return ""
	}
	return " " + quoteArgv(argv)
}

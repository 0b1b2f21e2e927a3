package cli

import (
	"net/url"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
)

// overSSH tells whether somebody sits at another machine: a browser here is not in front of them, and one there does not reach this
// machine's loopback.
func (c *cli) overSSH() bool {
	return c.Getenv("SSH_CONNECTION") != "" || c.Getenv("SSH_CLIENT") != "" || c.Getenv("SSH_TTY") != ""
}

// browsers are the commands that may open an address here, in the order in which they are tried; none where there is no browser.
func (c *cli) browsers(address string) [][]string {
	var out [][]string
	for _, b := range strings.Split(c.Getenv("BROWSER"), ":") { // as xdg-open reads it
		argv := strings.Fields(b)
		put := false
		for i, a := range argv {
			if strings.Contains(a, "%s") {
				argv[i], put = strings.ReplaceAll(a, "%s", address), true
			}
		}
		if len(argv) > 0 && !put {
			argv = append(argv, address)
		}
		if len(argv) > 0 {
			out = append(out, argv)
		}
	}
	switch c.System {
	case "darwin":
		out = append(out, []string{"open", address})
	case "windows":
		out = append(out, []string{"rundll32", "url.dll,FileProtocolHandler", address})
	default:
		if c.Getenv("DISPLAY") != "" || c.Getenv("WAYLAND_DISPLAY") != "" || c.Getenv("WSL_DISTRO_NAME") != "" {
			out = append(out, []string{"xdg-open", address}, []string{"wslview", address})
		}
	}
	var there [][]string
	for _, argv := range out {
		if c.Find == nil {
			break
		}
		if path, err := c.Find(argv[0]); err == nil {
			there = append(there, append([]string{path}, argv[1:]...))
		}
	}
	return there
}

// browse opens an address in the first browser that starts, and tells whether one did.
func (c *cli) browse(address string) bool {
	if c.Open == nil {
		return false
	}
	for _, argv := range c.browsers(address) {
		if c.Open(argv) == nil {
			return true
		}
	}
	return false
}

// webPage refuses what a browser should not be sent to: an address that comes from a server could name a program or a file.
func webPage(address string) error {
	u, err := url.Parse(address)
	if err == nil && u.Host != "" && u.User == nil && (u.Scheme == "https" || u.Scheme == "http") && !strings.ContainsFunc(address, func(r rune) bool {
		return r <= ' ' || r == 0x7f || strings.ContainsRune("\"'`<>|^", r)
	}) {
		return nil
	}
	return access.Errorf(access.CodeInternal, "the server wants a browser to open what is no web page: %q", address).
		WithHint("ask whoever runs the server: its sign-in is not configured as it should be")
}

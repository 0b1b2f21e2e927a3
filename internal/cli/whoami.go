package cli

import (
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
)

// Whoami is who the server takes the caller for, and how it came to that.
type Whoami struct {
	api.Me
	SignedIn string       `json:"signed_in"` // session, token-file, environment or demo
	Now      *api.Session `json:"current_session,omitempty"`
}

func (c *cli) whoamiCmd() *cobra.Command {
	return &cobra.Command{
		Use: "whoami", Short: "Who the server takes you for, how you signed in, and from which address", Args: need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			me, err := cl.Whoami(cmd.Context())
			if err != nil {
				return err
			}
			if slices.Contains(me.Roles, string(access.Admin)) {
				if st, err := cl.Status(cmd.Context()); err == nil && st.Policy != "" {
					c.say("the newest policy is not in force, and the one before stays: %s", st.Policy)
				}
			}
			w := Whoami{Me: me, SignedIn: "environment"}
			switch {
			case c.as != "":
				w.SignedIn = "demo"
			case c.tokenFile != "":
				w.SignedIn = "token-file"
			case c.session != "":
				w.SignedIn = "session"
			}
			if me.Session {
				l, err := cl.Sessions(cmd.Context(), false)
				if err != nil {
					return err
				}
				if i := slices.IndexFunc(l.Items, func(s api.Session) bool { return s.Current }); i >= 0 {
					w.Now = &l.Items[i]
				}
			}
			return c.show(w, func() string { return c.whoamiText(w, cl.Server()) })
		},
	}
}

func (c *cli) whoamiText(w Whoami, server string) string {
	var f fields
	f.add("name", w.Name)
	f.add("roles", noneIfEmpty(w.Roles))
	f.add("groups", strings.Join(w.Groups, ", "))
	if w.Kind != "" {
		f.add("kind", w.Kind+", for which "+w.Sponsor+" answers")
	}
	if w.Address.IsValid() {
		f.add("my-ip", w.Address.String())
	}
	f.add("signed in", map[string]string{"session": "with curfew login", "token-file": "by --token-file", "environment": "by CURFEW_TOKEN", "demo": "as an account of the demo, by --as"}[w.SignedIn])
	if s := w.Now; s != nil {
		f.add("session", s.ID+", by "+s.Via+" "+ago(s.StartedAt, c.now())+", last confirmed by the issuer "+ago(s.ConfirmedAt, c.now()))
		f.add("until", until(s.EndsAt, c.now(), c.Location))
	}
	if w.Demo {
		server += " (demo, not for production)"
	}
	f.add("server", server)
	f.add("installation", w.Installation)
	f.add("version", w.Version)
	return f.String()
}

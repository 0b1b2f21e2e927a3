package cli

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
)

func (c *cli) sessionCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "session", Short: "Who is signed in, and ending that"}
	var all bool
	list := &cobra.Command{
		Use: "list", Short: "List your sessions, or everybody's", Args: need(0, 0, "no arguments"),
		Example: "curfew session list\ncurfew session list --all",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			l, err := cl.Sessions(cmd.Context(), all)
			if err != nil {
				return err
			}
			return c.show(items(l.Items), func() string {
				if len(l.Items) == 0 {
					c.say("no sessions")
					return ""
				}
				t := newTable("ID", "WHO", "ROLES", "BY", "FROM", "CONFIRMED", "TIME", "")
				for _, s := range l.Items {
					t.row(s.ID, s.Name, strings.Join(s.Roles, ", "), s.Via, s.From, ago(s.ConfirmedAt, c.now()), until(s.EndsAt, c.now(), c.Location), map[bool]string{true: "this one"}[s.Current])
				}
				return t.String()
			})
		},
	}
	list.Flags().BoolVar(&all, "all", false, "everybody's; for admins")
	var in api.EndInput
	end := &cobra.Command{
		Use: "end PERSON", Short: "End all sessions of a person at once",
		Long: `Ends the sessions of a person, with effect from their next call. They may sign in again as long as the issuer lets them; with --bar
they may not, and tokens that they answer for are good for nothing, until curfew account release; what they and those have open is revoked.`,
		Args:    need(1, 1, "the name of a person"),
		Example: `curfew session end sam@example.com --bar --comment "laptop stolen"`,
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			r, err := cl.EndSessions(cmd.Context(), args[0], in)
			if err != nil {
				return err
			}
			return c.show(r, func() string {
				out := "ended: " + count(r.Sessions, "session") + " of " + safe(args[0])
				if in.Bar {
					out += ", who is kept out"
				}
				return out + "\n"
			})
		},
	}
	f := end.Flags()
	f.SortFlags = false
	f.BoolVar(&in.Bar, "bar", false, "keep them out, until the account is released")
	f.StringVarP(&in.Comment, "comment", "m", "", "why; it stands in the audit log")
	end.ValidArgsFunction = c.completeAccounts()
	cmd.AddCommand(list, end)
	return cmd
}

func (c *cli) accountCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "account", Short: "Who has signed in through the issuer"}
	list := &cobra.Command{
		Use: "list", Short: "List the people who have signed in, with whom their names belong to", Args: need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			l, err := cl.Accounts(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(items(l.Items), func() string {
				if len(l.Items) == 0 {
					c.say("nobody has signed in through an issuer")
					return ""
				}
				t := newTable("NAME", "ROLES", "GROUPS", "CONFIRMED", "KEPT OUT", "KNOWN AS")
				for _, a := range l.Items {
					barred := ""
					if !a.BarredAt.IsZero() {
						barred = ago(a.BarredAt, c.now()) + " by " + a.BarredBy
						if a.Why != "" {
							barred += ": " + a.Why
						}
					}
					t.row(a.Name, strings.Join(a.Roles, ", "), strings.Join(a.Groups, ", "), ago(a.LastAt, c.now()), barred, a.Key)
				}
				return t.String()
			})
		},
	}
	var comment string
	release := &cobra.Command{
		Use: "release PERSON", Short: "Free a name, and let its owner in again",
		Long: `A name belongs to the account that signed in with it first. Releasing it ends its sessions, lets in whom session end --bar kept out,
and gives the name to whoever signs in with it next: look at who that will be.`,
		Args: need(1, 1, "the name of a person"),
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			if err := c.confirm("free the name " + args[0] + " for whoever signs in with it next?"); err != nil {
				return err
			}
			if err := cl.ReleaseAccount(cmd.Context(), args[0], comment); err != nil {
				return err
			}
			return c.show(map[string]string{"name": args[0]}, func() string { return "released: " + safe(args[0]) + "\n" })
		},
	}
	release.Flags().StringVarP(&comment, "comment", "m", "", "why; it stands in the audit log")
	release.ValidArgsFunction = c.completeAccounts()
	cmd.AddCommand(list, release)
	return cmd
}

func (c *cli) completeAccounts() cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.completer(cmd, func(ctx context.Context, cl *client.Client) ([]cobra.Completion, error) {
			l, err := cl.Accounts(ctx)
			return ids(l.Items, typed, func(a api.Account) (string, string) { return a.Name, strings.Join(a.Roles, ", ") }), err
		})
	}
}

func (c *cli) tokenCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Tokens for programs"}
	list := &cobra.Command{
		Use: "list", Short: "List the tokens of programs, without their secrets", Args: need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			l, err := cl.Tokens(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(items(l.Items), func() string {
				if len(l.Items) == 0 {
					c.say("no tokens")
					return ""
				}
				t := newTable("ID", "NAME", "ROLES", "ANSWERS FOR IT", "LAST USED", "TIME")
				for _, a := range l.Items {
					used := "never"
					if !a.LastUsed.IsZero() {
						used = ago(a.LastUsed, c.now())
					}
					t.row(a.ID, a.Name, strings.Join(a.Roles, ", "), a.Sponsor, used, until(a.ExpiresAt, c.now(), c.Location))
				}
				return t.String()
			})
		},
	}
	var comment string
	revoke := &cobra.Command{
		Use: "revoke TOKEN", Short: "End a program's token at once", Args: need(1, 1, "the id or name of a token"),
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			if len(args) > 0 {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			return c.completer(cmd, func(ctx context.Context, cl *client.Client) ([]cobra.Completion, error) {
				l, err := cl.Tokens(ctx)
				return ids(l.Items, typed, func(a api.APIToken) (string, string) { return a.ID, a.Name }), err
			})
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			if err := cl.RevokeToken(cmd.Context(), args[0], comment); err != nil {
				return err
			}
			return c.show(map[string]string{"revoked": args[0]}, func() string { return "revoked: " + safe(args[0]) + "\n" })
		},
	}
	revoke.Flags().StringVarP(&comment, "comment", "m", "", "why; it stands in the audit log")
	cmd.AddCommand(c.tokenCreateCmd(), list, revoke)
	return cmd
}

func (c *cli) tokenCreateCmd() *cobra.Command {
	var roles []string
	var life, to string
	cmd := &cobra.Command{
		Use: "create NAME", Short: "Make a token for a program",
		Long: `Makes a token with roles of your own, never that of an approver. You answer for what is done with it, and do not decide on what it asks
for. Its secret is told this once: into a new file that nobody else can read, with --to, or on stdout; it is never part of --json.`,
		Args:    need(1, 1, "a name"),
		Example: "curfew token create ci-deploy --role requester --for 30d --to ci-token\ncurfew --token-file ci-token request create web-01 --reason deploy",
		RunE: func(cmd *cobra.Command, args []string) error {
			in := api.TokenInput{Name: args[0], Roles: roles}
			if life != "" {
				d, err := access.ParseDuration(life)
				if err != nil || d <= 0 {
					return badInput("for", "the time %q is not a duration", life).WithHint("write it like 30d")
				}
				in.Life = api.Duration(d)
			}
			if to == "" && c.output != "table" {
				return badInput("to", "the secret stands in no %s: it would end in logs", strings.ToUpper(c.output)).WithHint("name a file for it with --to")
			}
			cl, err := c.client()
			if err != nil {
				return err
			}
			return c.runTokenCreate(cmd.Context(), cl, in, to)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringSliceVar(&roles, "role", []string{string(access.Requester)}, "`ROLES` of the token: requester, auditor, admin")
	f.StringVar(&life, "for", "", "how long it is good for, a `DURATION` (default 30d, at most 365d)")
	f.StringVar(&to, "to", "", "new `FILE` for the secret, with mode 0600")
	_ = cmd.RegisterFlagCompletionFunc("role", cobra.FixedCompletions([]string{"requester", "auditor", "admin"}, cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

func (c *cli) runTokenCreate(ctx context.Context, cl *client.Client, in api.TokenInput, to string) (err error) {
	var file *os.File
	if to != "" { // first: a secret that has no place would be lost, and the token would stay
		file, err = os.OpenFile(to, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return badInput("to", "%s exists, and is not replaced", to)
		}
		if err != nil {
			return badInput("to", "the secret cannot be written: %v", err)
		}
		defer func() {
			err = errors.Join(err, file.Close())
			if err != nil {
				_ = os.Remove(to)
			}
		}()
	}
	t, err := cl.CreateToken(ctx, in)
	if err != nil {
		return err
	}
	secret := t.Secret
	t.Secret = ""
	if file != nil {
		if _, err := file.WriteString(secret + "\n"); err != nil {
			return access.Errorf(access.CodeUnavailable, "the secret could not be written, and is lost: %v", err).WithHint("end the token with: curfew token revoke %s", t.ID)
		}
	}
	return c.show(t.APIToken, func() string {
		var f fields
		f.add("token", t.ID)
		f.add("name", t.Name)
		f.add("roles", strings.Join(t.Roles, ", "))
		f.add("in the log", t.Caller)
		f.add("good for", until(t.ExpiresAt, c.now(), c.Location))
		if file != nil {
			f.add("secret in", to)
		} else {
			f.add("secret", secret)
		}
		return f.String()
	})
}

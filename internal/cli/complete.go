package cli

import (
	"context"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
)

// completionTime bounds what a key press may cost. A server that is slow, away or does not know us completes nothing.
const completionTime = 2 * time.Second

// completer asks the server for completions, and stays silent when that fails: a shell shows whatever is printed.
func (c *cli) completer(cmd *cobra.Command, ask func(context.Context, *client.Client) ([]cobra.Completion, error)) ([]cobra.Completion, cobra.ShellCompDirective) {
	alone := cmd.Flags().Lookup("standalone") // whose machines the server does not know
	if c.settle(cmd) != nil || alone != nil && alone.Changed {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	if c.Sessions != nil { // nor may a keyring cost more, or say anything
		s := *c.Sessions
		s.Patience, s.Waiting = completionTime, nil
		c.Sessions = &s
	}
	cl, err := c.client()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx := cmd.Context()
	if ctx == nil {
		ctx = context.Background()
	}
	ctx, cancel := context.WithTimeout(ctx, completionTime)
	defer cancel()
	out, err := ask(ctx, cl)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return out, cobra.ShellCompDirectiveNoFileComp | cobra.ShellCompDirectiveKeepOrder
}

// word makes a completion. A value with anything in it that a shell, or the lines of the completion protocol, could take for more
// than a word is left out; a description is only made safe.
func word(value, description string) (cobra.Completion, bool) {
	if value == "" || strings.ContainsFunc(value, func(r rune) bool {
		return r <= ' ' || hostile(r) || strings.ContainsRune("'\"`$\\;&|<>()[]{}*?!~#", r)
	}) || value[0] == '-' || value[0] == '_' && strings.HasPrefix(value, "_activeHelp_") {
		return "", false
	}
	return cobra.CompletionWithDesc(value, safe(strings.ReplaceAll(description, "\t", " "))), true
}

// completeVMs completes names of machines; a name that several have is completed as group/name.
func (c *cli) completeVMs(several bool) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 && !several {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.completer(cmd, func(ctx context.Context, cl *client.Client) ([]cobra.Completion, error) {
			l, err := cl.VMs(ctx, "")
			if err != nil {
				return nil, err
			}
			seen := map[string]int{}
			for _, v := range l.Items {
				seen[strings.ToLower(v.Name)]++
			}
			var out []cobra.Completion
			for _, v := range l.Items {
				name := v.Name
				if seen[strings.ToLower(name)] > 1 || strings.Contains(typed, "/") {
					name = v.Group + "/" + v.Name
				}
				if contains(args, name) || !hasPrefixFold(name, typed) {
					continue
				}
				if w, ok := word(name, v.State); ok {
					out = append(out, w)
				}
			}
			return out, nil
		})
	}
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// completeRequests completes ids of requests, in these states if any are named.
func (c *cli) completeRequests(states ...access.RequestState) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.completer(cmd, func(ctx context.Context, cl *client.Client) ([]cobra.Completion, error) {
			l, err := cl.Requests(ctx, client.RequestFilter{States: states, Page: client.Page{Limit: 50}})
			return ids(l.Items, typed, func(r api.Request) (string, string) {
				return r.ID, string(r.State) + ": " + r.Requester + ", " + targets(r.Terms.Targets) + " for " + r.Terms.Duration.String()
			}), err
		})
	}
}

// completeGrants completes ids of grants, live and scheduled ones unless other states are named.
func (c *cli) completeGrants(states ...access.GrantState) cobra.CompletionFunc {
	if len(states) == 0 {
		states = liveStates
	}
	return func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if len(args) > 0 {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		return c.completer(cmd, func(ctx context.Context, cl *client.Client) ([]cobra.Completion, error) {
			l, err := cl.Grants(ctx, client.GrantFilter{States: states, Page: client.Page{Limit: 50}})
			return ids(l.Items, typed, func(g api.Grant) (string, string) {
				return g.ID, string(g.State) + ": " + g.Requester + ", " + g.VM.Name + " port " + portOf(g.Port, g.Protocol)
			}), err
		})
	}
}

func ids[T any](list []T, typed string, of func(T) (id, words string)) []cobra.Completion {
	var out []cobra.Completion
	for _, v := range list {
		id, words := of(v)
		if !strings.HasPrefix(id, typed) {
			continue
		}
		if w, ok := word(id, words); ok {
			out = append(out, w)
		}
	}
	return out
}

func (c *cli) completionCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use: "completion SHELL", Short: "Print the completion script for bash, zsh or fish",
		Long: `Prints a script that completes commands, options, machines, requests and grants. Names come from the server that is named
(CURFEW_SERVER) and need a way to sign in (CURFEW_TOKEN, --token-file, or --as in the demo).`,
		Example: `source <(curfew completion bash)
curfew completion zsh > "${fpath[1]}/_curfew"
curfew completion fish > ~/.config/fish/completions/curfew.fish`,
		Args: need(1, 1, "a shell: bash, zsh or fish"), ValidArgs: []string{"bash", "zsh", "fish"},
		RunE: func(cmd *cobra.Command, args []string) error {
			switch root := cmd.Root(); args[0] {
			case "bash":
				return root.GenBashCompletionV2(c.Stdout, true)
			case "zsh":
				return root.GenZshCompletion(c.Stdout)
			case "fish":
				return root.GenFishCompletion(c.Stdout, true)
			}
			return badInput("shell", "there is no completion for %q", args[0]).WithHint("one of: bash, zsh, fish")
		},
	}
	return cmd
}

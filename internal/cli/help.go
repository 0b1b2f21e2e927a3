package cli

import (
	"bytes"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// exitCodes stands in the help of every command (DESIGN 7).
const exitCodes = `  0  done
  1  failed
  2  usage: the input is wrong
  3  findings at or above --fail-on
  4  denied by policy or approver
  5  not found
  6  conflict, or not protected
  7  waiting timed out
`

const helpTemplate = `{{with (or .Long .Short)}}{{. | trimTrailingWhitespaces}}

{{end}}{{if or .Runnable .HasSubCommands}}{{.UsageString}}{{end}}`

const usageTemplate = `Usage:{{if .HasAvailableSubCommands}}
  {{.CommandPath}} COMMAND [options]{{else}}
  {{useline .}}{{end}}{{if .HasExample}}

Examples:
{{.Example | indented}}{{end}}{{if .HasAvailableSubCommands}}{{$cmds := .Commands}}{{if eq (len .Groups) 0}}

Commands:{{range $cmds}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{else}}{{range $group := .Groups}}

{{.Title}}{{range $cmds}}{{if (and (eq .GroupID $group.ID) (or .IsAvailableCommand (eq .Name "help")))}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}{{end}}{{end}}{{end}}{{if .HasAvailableLocalFlags}}

Options:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}{{if .HasAvailableInheritedFlags}}

Options of every command:
{{.InheritedFlags.FlagUsages | trimTrailingWhitespaces}}{{end}}

Exit codes:
{{exitcodes | trimTrailingWhitespaces}}
`

// useLine says options where cobra says flags.
func useLine(cmd *cobra.Command) string {
	return strings.Replace(cmd.UseLine(), " [flags]", " [options]", 1)
}

func init() {
	cobra.AddTemplateFunc("useline", useLine)
	cobra.AddTemplateFunc("exitcodes", func() string { return exitCodes })
	cobra.AddTemplateFunc("indented", func(s string) string { return "  " + strings.ReplaceAll(s, "\n", "\n  ") })
}

func helpCmd() *cobra.Command {
	return &cobra.Command{
		Use: "help [COMMAND]", Short: "Help about a command", GroupID: groupOther,
		PersistentPreRunE: func(*cobra.Command, []string) error { return nil },
		ValidArgsFunction: func(cmd *cobra.Command, args []string, typed string) ([]cobra.Completion, cobra.ShellCompDirective) {
			at, _, err := cmd.Root().Find(args)
			if err != nil || at == nil {
				return nil, cobra.ShellCompDirectiveNoFileComp
			}
			var out []cobra.Completion
			for _, s := range at.Commands() {
				if s.IsAvailableCommand() && strings.HasPrefix(s.Name(), typed) {
					out = append(out, cobra.CompletionWithDesc(s.Name(), s.Short))
				}
			}
			return out, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			at, rest, err := cmd.Root().Find(args)
			if err != nil || len(rest) > 0 {
				if at == nil {
					at = cmd.Root()
				}
				name := strings.Join(args, " ")
				if len(rest) > 0 {
					name = rest[0]
				}
				return unknownCommand(at, name)
			}
			at.InitDefaultHelpFlag()
			return at.Help()
		},
	}
}

// Reference is the whole command line in Markdown, as docs/cli.md holds it. It needs nothing of an Env but Local.
func Reference(env Env) string {
	c := &cli{Env: env}
	root := c.root()
	var b bytes.Buffer
	b.WriteString("# The command line\n\nMade from the program's own help; a test holds it equal. Update it with `go test ./cmd/curfew -run Reference -update`.\n\n")
	b.WriteString(root.Long + "\n\nData goes to stdout, talk to stderr. With `--json` an error is one JSON object on stderr:\n" +
		"`{\"error\":{\"code\",\"message\",\"hint\",\"field\",\"exit\"}}`. Lists are `{\"items\":[…]}`.\n\nExit codes:\n\n```\n" + exitCodes + "```\n\nOptions of every command:\n\n```\n")
	b.WriteString(usages(root.PersistentFlags()) + "```\n")
	var walk func(*cobra.Command)
	walk = func(cmd *cobra.Command) {
		for _, s := range cmd.Commands() {
			if !s.IsAvailableCommand() || s.Name() == "help" {
				continue
			}
			fmt.Fprintf(&b, "\n## %s\n\n%s.\n", s.CommandPath(), strings.TrimSuffix(s.Short, "."))
			if s.Long != "" {
				b.WriteString("\n" + s.Long + "\n")
			}
			if s.HasAvailableSubCommands() {
				fmt.Fprintf(&b, "\nCommands: %s.\n", strings.Join(names(s), ", "))
			} else {
				fmt.Fprintf(&b, "\n```\n%s\n", useLine(s))
				if u := usages(s.NonInheritedFlags()); u != "" {
					b.WriteString("\n" + u)
				}
				b.WriteString("```\n")
			}
			if s.HasExample() {
				fmt.Fprintf(&b, "\nExamples:\n\n```\n%s\n```\n", s.Example)
			}
			walk(s)
		}
	}
	walk(root)
	return b.String()
}

func usages(f *pflag.FlagSet) string {
	var b strings.Builder
	for _, line := range strings.Split(strings.TrimRight(f.FlagUsages(), "\n"), "\n") {
		if !strings.Contains(line, "--help ") && line != "" {
			b.WriteString(line + "\n")
		}
	}
	return b.String()
}

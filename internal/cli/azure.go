package cli

import (
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/roles"
)

func (c *cli) azureCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "azure", Short: "What the program needs in Azure"}
	cmd.AddCommand(c.azureRoleCmd())
	return cmd
}

func dutyNames() (out []string) {
	for _, d := range roles.Duties {
		out = append(out, string(d))
	}
	return out
}

func (c *cli) azureRoleCmd() *cobra.Command {
	var duties, scopes []string
	var name string
	cmd := &cobra.Command{
		Use: "role", Short: "Print the least-privilege custom role that the program's own identity needs", Args: need(0, 0, "no arguments"),
		Annotations: map[string]string{outputs: "bicep terraform"},
		Long: `Prints a custom role definition as az role definition create takes it; --output bicep and terraform print it for those, and table says what
each action is for. Duties may be given apart: read-only for inventory and scans, and what adds to it: nsg to protect machines and open
ports, defender to write just-in-time policies, scale-sets to switch on termination notices. Without --duty it is all of them.
Nothing is called. Whoever asks for access or approves it needs no role in Azure.`,
		Example: `curfew azure role --scope 00000000-0000-0000-0000-000000000000 --duty read-only --duty nsg > role.json
az role definition create --role-definition role.json
curfew azure role --scope /subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/web --duty nsg --output terraform
curfew azure role --output table`,
		RunE: func(*cobra.Command, []string) error {
			var list []roles.Duty
			for _, s := range duties {
				d, err := roles.ParseDuty(s)
				if err != nil {
					return badInput("duty", "%v", err)
				}
				list = append(list, d)
			}
			if c.given("output") && c.output == "table" || c.output == "yaml" {
				return c.showActions(list)
			}
			if len(scopes) == 0 {
				return badInput("scope", "a custom role needs a scope in which it may be assigned").WithHint("name a subscription, a resource group or a management group by id with --scope")
			}
			var at []string
			for _, s := range scopes {
				id, err := roles.ParseScope(s)
				if err != nil {
					return badInput("scope", "%v", err).WithHint("for example /subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/web")
				}
				at = append(at, id)
			}
			r, err := roles.New(name, list, at)
			if err != nil {
				return badInput("name", "%v", err)
			}
			var text string
			switch c.output {
			case "bicep":
				text = r.Bicep()
			case "terraform":
				text = r.Terraform()
			default:
				b, err := r.JSON()
				if err != nil {
					return access.Errorf(access.CodeInternal, "the role could not be written").Wrap(err)
				}
				text = string(b)
			}
			_, err = io.WriteString(c.Stdout, text)
			return err
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&duties, "duty", nil, "only this `DUTY`: "+strings.Join(dutyNames(), ", ")+"; may be repeated")
	f.StringArrayVar(&scopes, "scope", nil, "`ID` of a subscription, resource group or management group in which it may be assigned; may be repeated")
	f.StringVar(&name, "name", "", "`NAME` of the role (default: Curfew, and the duties)")
	_ = cmd.RegisterFlagCompletionFunc("duty", cobra.FixedCompletions(dutyNames(), cobra.ShellCompDirectiveNoFileComp))
	return cmd
}

// roleAction is an action as it is listed.
type roleAction struct {
	Duty   string `json:"duty"`
	Action string `json:"action"`
	For    string `json:"for"`
	Note   string `json:"note,omitempty"`
}

func (c *cli) showActions(duties []roles.Duty) error {
	var all []roleAction
	for _, a := range roles.Actions {
		if len(duties) == 0 || slices.Contains(duties, a.Duty) {
			all = append(all, roleAction{string(a.Duty), a.Name, a.For, a.Unseen})
		}
	}
	return c.show(items(all), func() string {
		t := newTable("DUTY", "ACTION", "FOR")
		for _, a := range all {
			t.row(a.Duty, a.Action, a.For)
		}
		return t.String()
	})
}

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
	if c.Local.AzureCheck != nil {
		cmd.AddCommand(c.azureCheckCmd())
	}
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
			list, err := parseDuties(duties)
			if err != nil {
				return err
			}
			if c.given("output") && c.output == "table" || c.output == "yaml" {
				return c.showActions(list)
			}
			if len(scopes) == 0 {
				return badInput("scope", "a custom role needs a scope in which it may be assigned").WithHint("name a subscription, a resource group or a management group by id with --scope")
			}
			at, err := parseScopes(scopes)
			if err != nil {
				return err
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

func parseDuties(names []string) (out []roles.Duty, err error) {
	for _, s := range names {
		d, err := roles.ParseDuty(s)
		if err != nil {
			return nil, badInput("duty", "%v", err)
		}
		out = append(out, d)
	}
	return out, nil
}

func parseScopes(ids []string) (out []string, err error) {
	for _, s := range ids {
		id, err := roles.ParseScope(s)
		if err != nil {
			return nil, badInput("scope", "%v", err).WithHint("for example /subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/web")
		}
		out = append(out, id)
	}
	return out, nil
}

// AzureCheckOptions say as whom, where and for what it is looked whether anything is missing.
type AzureCheckOptions struct {
	ScanSource
	Scopes []string
	Duties []roles.Duty
}

// AzureCheckItem is one thing that was looked at.
type AzureCheckItem struct {
	Scope  string   `json:"scope"`
	Check  string   `json:"check"`
	State  string   `json:"state"` // ok, missing or unknown
	Detail string   `json:"detail"`
	Lacks  []string `json:"lacks,omitempty"`
	Next   string   `json:"next,omitempty"`
}

func (c *cli) azureCheckCmd() *cobra.Command {
	var o AzureCheckOptions
	var duties []string
	cmd := &cobra.Command{
		Use: "check", Short: "Say what is missing in Azure for a set-up: permissions, providers, Defender's plan", Args: need(0, 0, "no arguments"),
		Long: `Asks Azure, with your own login or with --config as the server, what the identity may do at each scope, and compares it with what the duties need;
whether the resource providers are registered; and, for defender, whether the plan has just-in-time access. It only reads. Azure tells what was given at
a scope or above it: a role on a single resource group is seen with --scope of that group. Deny assignments and conditions are not told.
Ends with 1 when anything is missing or could not be read.`,
		Example: `curfew azure check
curfew azure check --config /etc/curfew/curfew.yaml --duty nsg
curfew azure check --scope /subscriptions/00000000-0000-0000-0000-000000000000/resourceGroups/web --json`,
		RunE: func(cmd *cobra.Command, _ []string) (err error) {
			if o.Duties, err = parseDuties(duties); err != nil {
				return err
			}
			if o.Scopes, err = parseScopes(o.Scopes); err != nil {
				return err
			}
			if o.Endpoint != "" && (o.Cloud != "" || o.Config != "") || o.Config != "" && (o.Cloud != "" || o.CA != "") {
				return badInput("azure-endpoint", "--config, --azure-cloud and --azure-endpoint each say which Azure it is").WithHint("give one of them")
			}
			all, err := c.Local.AzureCheck(cmd.Context(), o)
			if err != nil {
				return err
			}
			if err := c.show(items(all), func() string { return checkText(all) }); err != nil {
				return err
			}
			n := 0
			for _, it := range all {
				if it.State != "ok" {
					n++
				}
			}
			switch {
			case len(all) == 0:
				return access.Errorf(access.CodeNotFound, "this login sees no subscription").WithHint("check the tenant that you are signed in to: az account list")
			case n > 0:
				return access.Errorf(access.CodeUnavailable, "%d of %d checks are not right", n, len(all)).WithHint("what to do stands beside each")
			}
			return nil
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringArrayVar(&duties, "duty", nil, "only for this `DUTY`: "+strings.Join(dutyNames(), ", ")+"; may be repeated")
	f.StringArrayVar(&o.Scopes, "scope", nil, "`ID` of a subscription or resource group to look at; may be repeated (default: every subscription that the login sees)")
	f.StringVar(&o.Config, "config", "", "a server's configuration `FILE`, for cloud and credential (default: az login, AZURE_…)")
	f.StringVar(&o.Cloud, "azure-cloud", "", "public, government or china (default public)")
	f.StringVar(&o.Endpoint, "azure-endpoint", "", "`URL` of another Azure, for example the simulator")
	f.StringVar(&o.CA, "azure-ca", "", "`FILE` of certificates to trust besides the system's")
	_ = cmd.RegisterFlagCompletionFunc("duty", cobra.FixedCompletions(dutyNames(), cobra.ShellCompDirectiveNoFileComp))
	_ = cmd.RegisterFlagCompletionFunc("azure-cloud", fixed([]string{"public", "government", "china"}))
	return cmd
}

func checkText(all []AzureCheckItem) string {
	t := newTable("STATE", "SCOPE", "CHECK", "DETAIL")
	for _, it := range all {
		t.row(it.State, shortScope(it.Scope), it.Check, it.Detail)
	}
	var b strings.Builder
	b.WriteString(t.String())
	for _, it := range all {
		if it.State == "ok" {
			continue
		}
		b.WriteString("\n" + safe(it.Check) + " at " + safe(it.Scope) + "\n")
		for _, a := range it.Lacks {
			b.WriteString("  lacks " + safe(a) + "\n")
		}
		if it.Next != "" {
			b.WriteString("  next: " + safe(it.Next) + "\n")
		}
	}
	return b.String()
}

func shortScope(id string) string {
	if i := strings.LastIndexByte(id, '/'); i >= 0 {
		return id[i+1:]
	}
	return id
}

package cli

import (
	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
)

func (c *cli) linkCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "link", Short: "Who you are elsewhere, in Slack for one"}
	cmd.AddCommand(c.linkSlackCmd(), c.linkListCmd(), c.linkRemoveCmd())
	return cmd
}

func (c *cli) linkSlackCmd() *cobra.Command {
	return &cobra.Command{
		Use: "slack CODE", Short: "Make a Slack account yours, with the code that it was shown", Args: need(1, 1, "the code that Slack showed you"),
		Long: `Whoever presses a button in Slack without being known here is shown a code. Entered here within ten minutes, by you as you are signed in,
it makes that Slack account yours: what it presses then counts as done by you. Never enter a code that somebody else gave you.`,
		Example: "curfew link slack 7k2mq-x94cd",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			in := api.LinkInput{Kind: "slack", Code: args[0]}
			l, err := cl.Link(cmd.Context(), in)
			if err != nil {
				return err
			}
			c.say("the code was shown to user %s of workspace %s, who is called %q there", l.User, l.Team, safe(l.Name))
			c.say("what this account presses will count as done by %s", safe(l.Person))
			if err := c.confirm("is that your own account?"); err != nil {
				return err
			}
			in.Confirm = l.ID
			if l, err = cl.Link(cmd.Context(), in); err != nil {
				return err
			}
			return c.show(l, func() string { return c.linkTable([]api.Link{l}) })
		},
	}
}

func (c *cli) linkListCmd() *cobra.Command {
	return &cobra.Command{
		Use: "list", Short: "List accounts elsewhere and whose they are", Args: need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			ls, err := cl.Links(cmd.Context())
			if err != nil {
				return err
			}
			return c.show(items(ls.Items), func() string { return c.linkTable(ls.Items) })
		},
	}
}

func (c *cli) linkRemoveCmd() *cobra.Command {
	return &cobra.Command{
		Use: "remove ID", Short: "Take an account elsewhere away from who it belongs to", Args: need(1, 1, "the ID of a link"),
		Example: "curfew link remove slack:T0123456789:U0123456789",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			ls, err := cl.Unlink(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.show(items(ls.Items), func() string { return c.linkTable(ls.Items) })
		},
	}
}

func (c *cli) linkTable(ls []api.Link) string {
	if len(ls) == 0 {
		c.say("no accounts elsewhere")
		return ""
	}
	t := newTable("ID", "CALLED", "PERSON", "SINCE")
	for _, l := range ls {
		t.row(l.ID, l.Name, l.Person, l.CreatedAt.In(c.Location).Format("2006-01-02 15:04:05 ")+zoneName(l.CreatedAt.In(c.Location)))
	}
	return t.String()
}

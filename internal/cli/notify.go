package cli

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
)

func (c *cli) notifyCmd() *cobra.Command {
	cmd := &cobra.Command{Use: "notify", Short: "What channels were told, and what nobody got"}
	cmd.AddCommand(c.notifyListCmd(), c.notifyRetryCmd(), c.notifyTestCmd())
	return cmd
}

func (c *cli) notifyListCmd() *cobra.Command {
	var f client.NoticeFilter
	var limit int
	cmd := &cobra.Command{
		Use: "list", Short: "List notices, newest first", Args: need(0, 0, "no arguments"),
		Long: `Lists what channels are told: what waits, what was delivered during the last week, and dead letters, which were given up and stay until
somebody has them tried again.`,
		Example: "curfew notify list --state dead\ncurfew notify list --channel ops --json",
		RunE: func(cmd *cobra.Command, _ []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			ns, err := pages(limit, func(p client.Page) (api.List[api.Notice], error) {
				f.Page = p
				return cl.Notices(cmd.Context(), f)
			})
			if err != nil {
				return err
			}
			return c.show(items(ns), func() string { return c.noticeTable(ns) })
		},
	}
	fl := cmd.Flags()
	fl.SortFlags = false
	fl.StringSliceVar(&f.States, "state", nil, "only in these `STATES`: waiting, sent, dead")
	fl.StringVar(&f.Channel, "channel", "", "only of this `CHANNEL`")
	fl.StringVar(&f.Subject, "request", "", "only about this request, by `ID`")
	fl.IntVar(&limit, "limit", 50, "at most this many; 0 is all")
	_ = cmd.RegisterFlagCompletionFunc("state", fixed([]string{"waiting", "sent", "dead"}))
	return cmd
}

func (c *cli) noticeTable(ns []api.Notice) string {
	if len(ns) == 0 {
		c.say("no notices")
		return ""
	}
	t := newTable("ID", "WHEN", "CHANNEL", "STATE", "TRIED", "KIND", "WHAT")
	for _, n := range ns {
		what := n.Message
		if n.LastError != "" {
			what = n.LastError
		}
		t.row(n.ID, n.CreatedAt.In(c.Location).Format("2006-01-02 15:04:05 ")+zoneName(n.CreatedAt.In(c.Location)), n.Channel, n.State, fmt.Sprint(n.Attempts), n.Kind, what)
	}
	return t.String()
}

func (c *cli) notifyRetryCmd() *cobra.Command {
	return &cobra.Command{
		Use: "retry ID", Short: "Have a dead letter tried again", Args: need(1, 1, "the ID of a notice"),
		Example: "curfew notify retry n-0123456789",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			n, err := cl.RetryNotice(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.noticeOutcome(cmd.Context(), cl, n)
		},
	}
}

func (c *cli) notifyTestCmd() *cobra.Command {
	return &cobra.Command{
		Use: "test CHANNEL", Short: "Send a channel a notice, and say what became of it", Args: need(1, 1, "the name of a channel"),
		Example: "curfew notify test ops",
		RunE: func(cmd *cobra.Command, args []string) error {
			cl, err := c.client()
			if err != nil {
				return err
			}
			n, err := cl.TestChannel(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			return c.noticeOutcome(cmd.Context(), cl, n)
		},
	}
}

// noticeWait is how long it is waited for what becomes of a notice: two attempts, and the pause between them.
const noticeWait = 30 * time.Second

// noticeOutcome waits until a notice was delivered, or failed once, or it takes too long.
func (c *cli) noticeOutcome(ctx context.Context, cl *client.Client, n api.Notice) error {
	c.say("waiting for %s to take %s", n.Channel, n.ID)
	for end := c.Clock.Now().Add(noticeWait); n.State == "waiting" && n.Attempts == 0 && c.Clock.Now().Before(end); {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-c.Clock.After(200 * time.Millisecond):
		}
		var err error
		if n, err = cl.Notice(ctx, n.ID); err != nil {
			return err
		}
	}
	if err := c.show(n, func() string { return c.noticeText(n) }); err != nil {
		return err
	}
	if n.State == "sent" {
		return nil
	}
	why := n.LastError
	if why == "" {
		why = "nothing has become of it yet"
	}
	return access.Errorf(access.CodeUnavailable, "%s was not told: %s", n.Channel, why).WithHint("see what becomes of it with: curfew notify list --channel %s", n.Channel)
}

func (c *cli) noticeText(n api.Notice) string {
	var f fields
	f.add("notice", n.ID)
	f.add("channel", n.Channel)
	f.add("state", n.State)
	f.add("tried", count(n.Attempts, "time"))
	f.add("last error", n.LastError)
	return f.String()
}

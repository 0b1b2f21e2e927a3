package demo

import (
	"context"
	"net/netip"
	"os"
	"path/filepath"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/config"
	"github.com/curfew-jit/curfew/internal/slacksim"
)

// DefaultSlackListen is where the demo's stand-in for Slack listens, unless the server takes any free port: then so does it.
const DefaultSlackListen = "127.0.0.1:7450"

// slackChannel is the name of the demo's channel, for policies and for curfew notify.
const slackChannel = "slack"

// startSlack listens with a stand-in for Slack, in which the demo's accounts are users, and returns it with the configuration of a
// channel that leads there.
func startSlack(ctx context.Context, listen, dir string, clk clock.Clock) (*slacksim.Slack, config.Notify, error) {
	var n config.Notify
	l, err := loopback(ctx, listen, "slack-listen")
	if err != nil {
		return nil, n, err
	}
	s := slacksim.New(l, clk.Now)
	for _, a := range Accounts() {
		s.Users = append(s.Users, a.Name)
	}
	token, secret := filepath.Join(dir, "slack-token"), filepath.Join(dir, "slack-signing-secret")
	for file, text := range map[string]string{token: s.Token, secret: s.Secret} {
		if err := os.WriteFile(file, []byte(text+"\n"), 0o600); err != nil {
			s.Close()
			return nil, n, access.Errorf(access.CodeUnavailable, "%s cannot be written: %v", file, err).WithHint("name another directory with --dir")
		}
	}
	addr := netip.MustParsePrefix("127.0.0.0/8")
	n.Channels = []config.NotifyChannel{{Name: slackChannel, Type: "slack", All: true, SlackChannel: s.Channel, TokenFile: token, SigningFile: secret, API: s.URL,
		AllowPrivate: []netip.Prefix{addr, netip.MustParsePrefix("::1/128")}}}
	return s, n, nil
}

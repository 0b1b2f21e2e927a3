package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"regexp"
	"strings"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/curfew-jit/curfew/internal/slacksim"
)

type slackKey struct{}

// slackPatience is how long is waited for what an app says after a press, and for what becomes of a message.
const slackPatience = 20 * time.Second

// slack is a command of the scripts: a stand-in for Slack, which checks what Slack would check.
//
//	slack start FILE                     starts one, and adds a channel that leads there to a configuration
//	slack shows REGEXP                   waits until a message matches
//	slack press USER ACTION REGEXP       has a user press a button of the newest message that matches
//	slack forge USER ACTION REGEXP       likewise, signed with another secret: it must be refused
//	slack replay                         sends the last press once more
//	slack says USER REGEXP               waits until what the app told that user alone matches
//	slack code VAR USER                  puts the code that the user was shown into a variable
func slack(ts *testscript.TestScript, neg bool, args []string) {
	if neg || len(args) == 0 {
		ts.Fatalf("usage: slack start|shows|press|forge|replay|says|code ...")
	}
	if args[0] == "start" {
		slackStart(ts, args[1])
		return
	}
	s := ts.Value(slackKey{}).(*slackState)
	s.sim.Target = ts.Getenv("CURFEW_SERVER") + "/v1/slack/actions"
	switch args[0] {
	case "shows":
		until(ts, "a message that matches "+args[1], func() (string, bool) {
			m, seen := s.newest(ts, args[1])
			return seen, m != nil
		})
	case "press", "forge":
		var m *slacksim.Message
		until(ts, "a message that matches "+args[3], func() (string, bool) {
			var seen string
			m, seen = s.newest(ts, args[3])
			return seen, m != nil && (m.Buttons()[args[2]] != "" || args[0] == "forge")
		})
		want, secret := 200, s.sim.Secret
		if args[0] == "forge" {
			want, s.sim.Secret = 401, "not the secret"
		} else {
			s.last = s.sim.Payload(*m, args[2], slacksim.UserID(args[1]))
			s.at = time.Now()
		}
		body := s.last
		if args[0] == "forge" {
			body = s.sim.Payload(*m, args[2], slacksim.UserID(args[1]))
		}
		s.send(ts, body, time.Now(), want)
		s.sim.Secret = secret
	case "replay":
		s.send(ts, s.last, s.at, 401)
	case "says":
		until(ts, args[1]+" is told "+args[2], func() (string, bool) { return s.told(ts, args[1], args[2]) })
	case "code":
		re := regexp.MustCompile(`curfew (?:\S+ )*?link slack (\S+)`)
		until(ts, args[2]+" is shown a code", func() (string, bool) {
			seen, _ := s.told(ts, args[2], "")
			ms := re.FindAllStringSubmatch(seen, -1)
			if len(ms) > 0 {
				ts.Setenv(args[1], strings.Trim(ms[len(ms)-1][1], "`.*"))
			}
			return seen, len(ms) > 0
		})
	default:
		ts.Fatalf("slack %s: no such thing", args[0])
	}
}

type slackState struct {
	sim  *slacksim.Slack
	last []byte
	at   time.Time
}

func slackStart(ts *testscript.TestScript, file string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	ts.Check(err)
	s := ts.Value(slackKey{}).(*slackState)
	s.sim = slacksim.New(l, time.Now)
	ts.Defer(s.sim.Close)
	for name, text := range map[string]string{"slack-token": s.sim.Token, "slack-secret": s.sim.Secret} {
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text+"\n"), 0o600))
	}
	b, err := os.ReadFile(ts.MkAbs(file))
	ts.Check(err)
	b = fmt.Appendf(b, `
notify:
  channels:
    - name: ops
      type: slack
      all: true
      channel: %s
      token_file: %s
      signing_secret_file: %s
      api: %s
      allow_private: [127.0.0.0/8]
`, s.sim.Channel, ts.MkAbs("slack-token"), ts.MkAbs("slack-secret"), s.sim.URL)
	ts.Check(os.WriteFile(ts.MkAbs(file), b, 0o600))
}

// newest returns the newest message that matches, and what all show.
func (s *slackState) newest(ts *testscript.TestScript, pattern string) (*slacksim.Message, string) {
	re, err := regexp.Compile("(?s)" + pattern)
	ts.Check(err)
	var found *slacksim.Message
	seen := strings.Join(s.sim.Rejected(), "\n")
	for _, m := range s.sim.Messages() {
		text := m.Text + "\n" + m.Shown()
		seen += "\n---\n" + text
		if re.MatchString(text) {
			found = &m
		}
	}
	return found, seen
}

// told returns what a user alone was told, and whether it matches.
func (s *slackState) told(ts *testscript.TestScript, user, pattern string) (string, bool) {
	re, err := regexp.Compile("(?s)" + pattern)
	ts.Check(err)
	seen, found := "", false
	for _, a := range s.sim.Answers() {
		if a.User == slacksim.UserID(user) && a.Ephemeral {
			seen += a.Text + "\n"
			found = found || re.MatchString(a.Text)
		}
	}
	return seen, found
}

func (s *slackState) send(ts *testscript.TestScript, body []byte, at time.Time, want int) {
	status, err := s.sim.Send(context.Background(), s.sim.Target, body, at)
	ts.Check(err)
	if status != want {
		ts.Fatalf("the press was answered %d, want %d", status, want)
	}
}

func until(ts *testscript.TestScript, what string, ok func() (string, bool)) {
	var seen string
	for end := time.Now().Add(slackPatience); time.Now().Before(end); time.Sleep(50 * time.Millisecond) {
		var done bool
		if seen, done = ok(); done {
			return
		}
	}
	ts.Fatalf("never came: %s\n%s", what, seen)
}

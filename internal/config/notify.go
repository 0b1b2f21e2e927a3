package config

import (
	"fmt"
	"maps"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/notify"
)

// Notify says whom the server tells of what happens.
type Notify struct {
	Links    string          `yaml:"links" doc:"URL of the portal, for links in messages; absent: messages have none"`
	Channels []NotifyChannel `yaml:"channels"`
}

// NotifyChannel is one place that is told.
type NotifyChannel struct {
	Name         string         `yaml:"name" doc:"Name of the channel, as policy rules and the audit log call it: 1 to 32 of a-z, 0-9 and -"`
	Type         string         `yaml:"type" doc:"webhook, email, slack or teams"`
	Kinds        []notify.Kind  `yaml:"kinds" doc:"Only of these kinds of event; absent: every kind. docs/notifications.md lists them"`
	All          bool           `yaml:"all" doc:"Also of requests whose rules do not name the channel"`
	URL          string         `yaml:"url" doc:"Of a webhook: where events are sent. https, except to an allowed loopback address"`
	SecretFile   string         `yaml:"secret_file" doc:"Of a webhook: file with the secrets that sign, one whsec_… a line"`
	URLFile      string         `yaml:"url_file" doc:"Of Teams: file with the workflow's URL, which is a secret"`
	Server       string         `yaml:"server" doc:"Of e-mail: host and port of the mail server, as mail.example.com:587"`
	TLS          string         `yaml:"tls" doc:"Of e-mail: starttls, which is the default, implicit, or none, to an allowed loopback address alone"`
	User         string         `yaml:"user" doc:"Of e-mail: who signs in; absent: nobody"`
	PasswordFile string         `yaml:"password_file" doc:"Of e-mail: file with the password"`
	From         string         `yaml:"from" doc:"Of e-mail: the sender"`
	To           []string       `yaml:"to" doc:"Of e-mail: addresses that get everything"`
	People       bool           `yaml:"people" doc:"Of e-mail: also to the people whom an event concerns, at their people[].email"`
	Domains      []string       `yaml:"domains" doc:"Of e-mail: whoever signs in under a name of such a domain, as dora@example.com, gets mail there"`
	SlackChannel string         `yaml:"channel" doc:"Of Slack: id of the channel, as C0123456789"`
	TokenFile    string         `yaml:"token_file" doc:"Of Slack: file with the bot's token, xoxb-…"`
	SigningFile  string         `yaml:"signing_secret_file" doc:"Of Slack: file with the app's signing secret. With it messages have buttons, which the server takes at /v1/slack/actions"`
	API          string         `yaml:"api" doc:"Of Slack: URL of the Web API; absent: https://slack.com/api"`
	Templates    []NotifyWords  `yaml:"templates"`
	AllowPrivate []netip.Prefix `yaml:"allow_private" doc:"Networks to which the channel may connect although they are not public. Everything else that leads inside is refused"`
	CA           string         `yaml:"ca" doc:"File with certificates to trust besides the system's, PEM"`
}

// NotifyWords are the words for some kinds of event.
type NotifyWords struct {
	Kinds []notify.Kind `yaml:"kinds" doc:"For these kinds; absent: for every kind"`
	Title string        `yaml:"title" doc:"Template of the title; absent: the built-in one. docs/notifications.md lists the fields"`
	Body  string        `yaml:"body" doc:"Template of the text below it; absent: the built-in one"`
}

// ChannelTypes are the types of channel.
var ChannelTypes = []string{"webhook", "email", "slack", "teams"}

// channelKeys are the keys of each type, besides those that all have: true where it cannot do without.
var channelKeys = map[string]map[string]bool{
	"webhook": {"url": true, "secret_file": true},
	"email":   {"server": true, "from": true, "tls": false, "user": false, "password_file": false, "to": false, "people": false, "domains": false, "templates": false},
	"teams":   {"url_file": true, "templates": false},
	"slack":   {"channel": true, "token_file": true, "signing_secret_file": false, "api": false, "templates": false},
}

var channelForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// notify checks the channels. Files are read when the server starts.
func (k *checker) notify(n Notify) {
	if n.Links != "" {
		if u, err := url.Parse(n.Links); err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
			k.bad("notify.links", "is not the URL of a portal, as https://curfew.example.com")
		}
	}
	seen := map[string]bool{}
	for i, c := range n.Channels {
		at := fmt.Sprintf("notify.channels[%d]", i)
		switch {
		case !channelForm.MatchString(c.Name):
			k.bad(at+".name", "is %q: it must be 1 to 32 of a-z, 0-9 and -", c.Name)
		case seen[c.Name]:
			k.bad(at+".name", "is %q, which another channel is called already", c.Name)
		}
		seen[c.Name] = true
		k.oneOf(at+".type", c.Type, ChannelTypes)
		for j, kind := range c.Kinds {
			if !slices.Contains(notify.Kinds, kind) {
				k.bad(fmt.Sprintf("%s.kinds[%d]", at, j), "is %q: it may be %s", kind, words(notify.Kinds))
			}
		}
		for j, p := range c.AllowPrivate {
			if !p.IsValid() || p.Masked() != p {
				k.bad(fmt.Sprintf("%s.allow_private[%d]", at, j), "is not a network without bits behind its prefix")
			} else if p.Bits() == 0 {
				k.bad(fmt.Sprintf("%s.allow_private[%d]", at, j), "is %s: then nothing is refused", p)
			}
		}
		k.channelKeys(at, c)
		guard := notify.Guard{Allow: c.AllowPrivate}
		for key, v := range map[string]string{"url": c.URL, "api": c.API} {
			if v != "" {
				if _, err := guard.ParseTarget(v); err != nil {
					k.bad(at+"."+key, "cannot be used: %v", err)
				}
			}
		}
		if c.Type == "email" {
			k.email(at, c)
		}
		if c.SigningFile != "" && len(c.Kinds) > 0 && slices.Contains(c.Kinds, notify.RequestCreated) {
			for _, kind := range []notify.Kind{notify.RequestApproved, notify.RequestDenied, notify.RequestCancelled, notify.RequestExpired} {
				if !slices.Contains(c.Kinds, kind) {
					k.bad(at+".kinds", "lacks %s: the buttons would stay when it has happened", kind)
				}
			}
		}
		for j, t := range c.Templates {
			for x, kind := range t.Kinds {
				if !slices.Contains(notify.Kinds, kind) && kind != notify.Test {
					k.bad(fmt.Sprintf("%s.templates[%d].kinds[%d]", at, j, x), "is %q: it may be %s", kind, words(notify.Kinds))
				}
			}
			if _, err := notify.NewWords(n.Links, []notify.Template{{Kinds: t.Kinds, Title: t.Title, Body: t.Body}}); err != nil {
				k.bad(fmt.Sprintf("%s.templates[%d]", at, j), "cannot be used: %v", err)
			}
		}
	}
}

func (k *checker) email(at string, c NotifyChannel) {
	for key, list := range map[string][]string{"from": {c.From}, "to": c.To} {
		for _, s := range list {
			if _, err := notify.ParseEmailAddress(s); s != "" && err != nil {
				k.bad(at+"."+key, "holds %q: %v", s, err)
			}
		}
	}
	if c.TLS != "" {
		k.oneOf(at+".tls", c.TLS, []string{notify.StartTLS, notify.ImplicitTLS, notify.NoTLS})
	}
	if (c.User == "") != (c.PasswordFile == "") {
		k.bad(at+".user", "and password_file go together")
	}
	if len(c.To) == 0 && !c.People {
		k.bad(at+".to", "is missing: nobody would get mail; or set people")
	}
	if len(c.Domains) > 0 && !c.People {
		k.bad(at+".domains", "is for people")
	}
}

// channelKeys checks that a channel has the keys that its type needs, and none of another.
func (k *checker) channelKeys(at string, c NotifyChannel) {
	has := map[string]bool{"url": c.URL != "", "secret_file": c.SecretFile != "", "channel": c.SlackChannel != "", "token_file": c.TokenFile != "",
		"signing_secret_file": c.SigningFile != "", "api": c.API != "", "url_file": c.URLFile != "", "server": c.Server != "", "tls": c.TLS != "",
		"user": c.User != "", "password_file": c.PasswordFile != "", "from": c.From != "", "to": len(c.To) > 0, "people": c.People, "domains": len(c.Domains) > 0, "templates": len(c.Templates) > 0}
	keys, ok := channelKeys[c.Type]
	if !ok {
		return // said already
	}
	for _, key := range slices.Sorted(maps.Keys(has)) {
		needed, known := keys[key]
		switch {
		case has[key] && !known:
			k.bad(at+"."+key, "is not for the type %s", c.Type)
		case !has[key] && needed:
			k.bad(at+"."+key, "is missing")
		}
	}
}

func words[T ~string](in []T) string {
	out := make([]string, len(in))
	for i, s := range in {
		out[i] = string(s)
	}
	return strings.Join(out, ", ")
}

package config

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"

	"github.com/curfew-jit/curfew/internal/notify"
)

// Notify says whom the server tells of what happens.
type Notify struct {
	Channels []NotifyChannel `yaml:"channels"`
}

// NotifyChannel is one place that is told.
type NotifyChannel struct {
	Name         string         `yaml:"name" doc:"Name of the channel, as policy rules and the audit log call it: 1 to 32 of a-z, 0-9 and -"`
	Type         string         `yaml:"type" doc:"webhook"`
	Kinds        []notify.Kind  `yaml:"kinds" doc:"Only of these kinds of event; absent: every kind. docs/notifications.md lists them"`
	All          bool           `yaml:"all" doc:"Also of requests whose rules do not name the channel"`
	URL          string         `yaml:"url" doc:"Of a webhook: where events are sent. https, except to an allowed loopback address"`
	SecretFile   string         `yaml:"secret_file" doc:"Of a webhook: file with the secrets that sign, one whsec_… a line"`
	AllowPrivate []netip.Prefix `yaml:"allow_private" doc:"Networks to which the channel may connect although they are not public. Everything else that leads inside is refused"`
	CA           string         `yaml:"ca" doc:"File with certificates to trust besides the system's, PEM"`
}

// ChannelTypes are the types of channel.
var ChannelTypes = []string{"webhook"}

var channelForm = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{0,31}$`)

// notify checks the channels. Files are read when the server starts.
func (k *checker) notify(n Notify) {
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
		if c.Type == "webhook" {
			k.needs(at+".url", c.URL)
			k.needs(at+".secret_file", c.SecretFile)
			if c.URL != "" {
				if _, err := (notify.Guard{Allow: c.AllowPrivate}).ParseTarget(c.URL); err != nil {
					k.bad(at+".url", "cannot be used: %v", err)
				}
			}
		}
	}
}

func (k *checker) needs(key, v string) {
	if v == "" {
		k.bad(key, "is missing")
	}
}

func words[T ~string](in []T) string {
	out := ""
	for i, s := range in {
		if i > 0 {
			out += ", "
		}
		out += string(s)
	}
	return out
}

package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
)

// maxGroups bounds what is read from Graph; Entra itself stops earlier.
const maxGroups = 20_000

// overage tells whether the issuer left the groups out because there are too many: Entra's tokens carry 200 at most.
func (m *Manager) overage(c claims) (bool, error) {
	if _, ok := c[m.issuer.GroupsClaim]; ok {
		return false, nil
	}
	if raw, ok := c["hasgroups"]; ok && string(raw) != "false" && string(raw) != `"false"` {
		return true, nil
	}
	raw, ok := c["_claim_names"]
	if !ok {
		return false, nil
	}
	var names claims
	if err := json.Unmarshal(raw, &names); err != nil {
		return false, fmt.Errorf("its claim _claim_names is not readable: %w", err)
	}
	_, ok = names[m.issuer.GroupsClaim]
	return ok, nil
}

// groups returns the groups that the person is in. Where the issuer points to Graph they are read there: all of them, or it is an error,
// because with a group less somebody might be let in whom a rule keeps out.
func (m *Manager) groups(ctx context.Context, c claims, accessToken string) ([]string, error) {
	over, err := m.overage(c)
	if err != nil {
		return nil, untrusted(err)
	}
	if !over {
		list, err := c.texts(m.issuer.GroupsClaim)
		if err != nil {
			return nil, untrusted(err)
		}
		return list, nil
	}
	if len(m.issuer.Tenants) == 0 {
		return nil, untrusted(errors.New("it leaves the groups out, and the issuer is not Entra, where they could be read"))
	}
	list, err := m.graph(ctx, accessToken)
	if err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "you are in more groups than the token holds, and they could not be read from Microsoft Graph").
			WithHint("try again in a minute; an admin checks that the application may use User.Read, or has it send application roles or fewer groups").Wrap(err)
	}
	return list, nil
}

// graph reads the ids of all groups that the signed-in person is in, directly or through others. Names are not taken: anybody who may
// make a group may call it as another one is called.
func (m *Manager) graph(ctx context.Context, accessToken string) ([]string, error) {
	if accessToken == "" {
		return nil, errors.New("the issuer gave no access token")
	}
	base, err := url.Parse(strings.TrimRight(m.issuer.Graph, "/") + "/v1.0/me/transitiveMemberOf?$select=id&$top=999")
	if err != nil {
		return nil, err
	}
	var out []string
	seen := map[string]bool{}
	for next := base; next != nil; {
		if seen[next.String()] {
			return nil, errors.New("its pages lead round in a circle")
		}
		seen[next.String()] = true
		var page struct {
			Value []struct {
				Type string `json:"@odata.type"`
				ID   string `json:"id"`
			} `json:"value"`
			Next string `json:"@odata.nextLink"`
		}
		if err := getJSON(ctx, m.client, next.String(), accessToken, &page); err != nil {
			return nil, plainError(err)
		}
		if page.Value == nil {
			return nil, errors.New("a page holds no list")
		}
		for _, v := range page.Value {
			if v.ID == "" {
				return nil, errors.New("a membership has no id")
			}
			// Directory roles and administrative units are memberships too, and no groups.
			if strings.EqualFold(v.Type, "#microsoft.graph.group") {
				out = append(out, v.ID)
			}
		}
		if len(out) > maxGroups {
			return nil, fmt.Errorf("there are more than %d groups", maxGroups)
		}
		if page.Next == "" {
			return out, nil
		}
		// The token goes along, so that a page elsewhere is not asked for.
		u, err := url.Parse(page.Next)
		if err != nil || u.Scheme != base.Scheme || !strings.EqualFold(u.Host, base.Host) || u.User != nil {
			return nil, errors.New("its next page is on another host")
		}
		next = u
	}
	return out, nil
}

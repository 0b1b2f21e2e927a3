package client

import (
	"context"
	"net/http"
	"net/url"
	"strconv"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/scan"
)

// Page bounds a list: Limit items (0: the server's choice) from where After, the Next of the part before, says.
type Page struct {
	After string
	Limit int
}

func (p Page) put(q url.Values) url.Values {
	if p.After != "" {
		q.Set("after", p.After)
	}
	if p.Limit > 0 {
		q.Set("limit", strconv.Itoa(p.Limit))
	}
	return q
}

// RequestFilter selects requests. Empty fields match everything.
type RequestFilter struct {
	States []access.RequestState
	Mine   bool
	VM     string // reference
	Page   Page
}

// GrantFilter selects grants. Empty fields match everything.
type GrantFilter struct {
	States  []access.GrantState
	Mine    bool
	VM      string // reference
	Request string
	Page    Page
}

// AuditFilter selects entries of the audit log, newest first unless Ascending.
type AuditFilter struct {
	Actor, Action, Object, VM string
	Since, Until              time.Time
	Ascending                 bool
	Page                      Page
}

func get[T any](ctx context.Context, c *Client, path string, q url.Values) (T, error) {
	var out T
	err := c.do(ctx, call{method: http.MethodGet, path: path, query: q}, &out)
	return out, err
}

func post[T any](ctx context.Context, c *Client, path string, body any, key string) (T, error) {
	var out T
	err := c.do(ctx, call{method: http.MethodPost, path: path, body: body, key: key}, &out)
	return out, err
}

// Whoami returns who the server takes the caller for.
func (c *Client) Whoami(ctx context.Context) (api.Me, error) {
	return get[api.Me](ctx, c, "/v1/whoami", nil)
}

// VMs lists machines whose names match the query; "" matches all.
func (c *Client) VMs(ctx context.Context, query string) (api.List[api.VM], error) {
	q := url.Values{}
	if query != "" {
		q.Set("q", query)
	}
	return get[api.List[api.VM]](ctx, c, "/v1/vms", q)
}

// VM returns one machine by name, group/name, or resource id.
func (c *Client) VM(ctx context.Context, ref string) (api.VM, error) {
	if ref == "" {
		return api.VM{}, usage("vm", "no VM was named")
	}
	return get[api.VM](ctx, c, "/v1/vms/"+url.PathEscape(ref), nil)
}

// PlanProtection shows what Protect would do. It changes nothing.
func (c *Client) PlanProtection(ctx context.Context, in api.ProtectInput) (api.ProtectPlan, error) {
	return post[api.ProtectPlan](ctx, c, "/v1/plans/protection", in, "")
}

// Protect switches protection on or off; with the digest of a plan, only as that plan says.
func (c *Client) Protect(ctx context.Context, in api.ProtectInput) (api.ProtectPlan, error) {
	return post[api.ProtectPlan](ctx, c, "/v1/protections", in, "")
}

// PlanRequest is the dry run of a request.
func (c *Client) PlanRequest(ctx context.Context, in api.RequestInput) (api.RequestPlan, error) {
	return post[api.RequestPlan](ctx, c, "/v1/plans/request", in, "")
}

// CreateRequest asks for access. With a key it may be repeated: the same key and input return the same request.
func (c *Client) CreateRequest(ctx context.Context, in api.RequestInput, key string) (api.Request, error) {
	return post[api.Request](ctx, c, "/v1/requests", in, key)
}

// Request returns one request.
func (c *Client) Request(ctx context.Context, id string) (api.Request, error) {
	return get[api.Request](ctx, c, "/v1/requests/"+url.PathEscape(id), nil)
}

// Requests lists requests, newest first.
func (c *Client) Requests(ctx context.Context, f RequestFilter) (api.List[api.Request], error) {
	q := f.Page.put(url.Values{})
	for _, s := range f.States {
		q.Add("state", string(s))
	}
	if f.Mine {
		q.Set("mine", "true")
	}
	if f.VM != "" {
		q.Set("vm", f.VM)
	}
	return get[api.List[api.Request]](ctx, c, "/v1/requests", q)
}

// Approve agrees to a request, or to less of it.
func (c *Client) Approve(ctx context.Context, id string, in api.ReviewInput) (api.Request, error) {
	return post[api.Request](ctx, c, "/v1/requests/"+url.PathEscape(id)+"/approve", in, "")
}

// Deny turns a request down.
func (c *Client) Deny(ctx context.Context, id, comment string) (api.Request, error) {
	return post[api.Request](ctx, c, "/v1/requests/"+url.PathEscape(id)+"/deny", api.CommentInput{Comment: comment}, "")
}

// Comment says something about a request without deciding on it.
func (c *Client) Comment(ctx context.Context, id, text string) (api.Request, error) {
	return post[api.Request](ctx, c, "/v1/requests/"+url.PathEscape(id)+"/comments", api.CommentInput{Comment: text}, "")
}

// Remind has those for whom a request waits told again.
func (c *Client) Remind(ctx context.Context, id string) (api.Request, error) {
	return post[api.Request](ctx, c, "/v1/requests/"+url.PathEscape(id)+"/remind", nil, "")
}

// BreakGlass opens before anybody agrees. With a key it may be repeated.
func (c *Client) BreakGlass(ctx context.Context, in api.RequestInput, key string) (api.Request, error) {
	return post[api.Request](ctx, c, "/v1/break-glass", in, key)
}

// Aftermath lists the accesses behind broken glass at which nobody has looked back yet.
func (c *Client) Aftermath(ctx context.Context) (api.List[api.Request], error) {
	return get[api.List[api.Request]](ctx, c, "/v1/break-glass", nil)
}

// CloseAftermath closes the look back at one.
func (c *Client) CloseAftermath(ctx context.Context, id, comment string) (api.Request, error) {
	return post[api.Request](ctx, c, "/v1/break-glass/"+url.PathEscape(id)+"/close", api.CommentInput{Comment: comment}, "")
}

// Delegate has another approver answer in the caller's place.
func (c *Client) Delegate(ctx context.Context, in api.DelegationInput) (api.Delegation, error) {
	return post[api.Delegation](ctx, c, "/v1/delegations", in, "")
}

// Delegations lists who answers in whose place.
func (c *Client) Delegations(ctx context.Context) (api.List[api.Delegation], error) {
	return get[api.List[api.Delegation]](ctx, c, "/v1/delegations", nil)
}

// EndDelegation ends one.
func (c *Client) EndDelegation(ctx context.Context, id string) error {
	_, err := post[api.List[api.Delegation]](ctx, c, "/v1/delegations/"+url.PathEscape(id)+"/end", nil, "")
	return err
}

// Cancel takes the caller's own pending request back.
func (c *Client) Cancel(ctx context.Context, id string) (api.Request, error) {
	return post[api.Request](ctx, c, "/v1/requests/"+url.PathEscape(id)+"/cancel", nil, "")
}

// Grant returns one grant, with where to connect to while it is open.
func (c *Client) Grant(ctx context.Context, id string) (api.Grant, error) {
	return get[api.Grant](ctx, c, "/v1/grants/"+url.PathEscape(id), nil)
}

// Grants lists grants, newest first.
func (c *Client) Grants(ctx context.Context, f GrantFilter) (api.List[api.Grant], error) {
	q := f.Page.put(url.Values{})
	for _, s := range f.States {
		q.Add("state", string(s))
	}
	if f.Mine {
		q.Set("mine", "true")
	}
	if f.VM != "" {
		q.Set("vm", f.VM)
	}
	if f.Request != "" {
		q.Set("request", f.Request)
	}
	return get[api.List[api.Grant]](ctx, c, "/v1/grants", q)
}

// Extend asks for more time on a live grant: it returns the request, which needs its own review.
func (c *Client) Extend(ctx context.Context, id string, in api.ExtendInput, key string) (api.Request, error) {
	return post[api.Request](ctx, c, "/v1/grants/"+url.PathEscape(id)+"/extend", in, key)
}

// Close shuts the caller's own grant early.
func (c *Client) Close(ctx context.Context, id string) (api.Grant, error) {
	return post[api.Grant](ctx, c, "/v1/grants/"+url.PathEscape(id)+"/close", nil, "")
}

// Revoke shuts somebody else's grant.
func (c *Client) Revoke(ctx context.Context, id, comment string) (api.Grant, error) {
	return post[api.Grant](ctx, c, "/v1/grants/"+url.PathEscape(id)+"/revoke", api.CommentInput{Comment: comment}, "")
}

// Audit lists entries of the audit log.
func (c *Client) Audit(ctx context.Context, f AuditFilter) (api.List[api.AuditEntry], error) {
	q := f.Page.put(url.Values{})
	for k, v := range map[string]string{"actor": f.Actor, "action": f.Action, "object": f.Object, "vm": f.VM} {
		if v != "" {
			q.Set(k, v)
		}
	}
	if !f.Since.IsZero() {
		q.Set("since", f.Since.UTC().Format(time.RFC3339Nano))
	}
	if !f.Until.IsZero() {
		q.Set("until", f.Until.UTC().Format(time.RFC3339Nano))
	}
	if f.Ascending {
		q.Set("ascending", "true")
	}
	return get[api.List[api.AuditEntry]](ctx, c, "/v1/audit", q)
}

// Checkpoint returns the head of the audit log.
func (c *Client) Checkpoint(ctx context.Context) (api.Checkpoint, error) {
	return get[api.Checkpoint](ctx, c, "/v1/audit/checkpoint", nil)
}

// Reconcile runs a whole sweep now.
func (c *Client) Reconcile(ctx context.Context) (api.SweepReport, error) {
	return post[api.SweepReport](ctx, c, "/v1/reconcile", nil, "")
}

// Resume ends a hold on openings.
func (c *Client) Resume(ctx context.Context, comment string) (api.Status, error) {
	return post[api.Status](ctx, c, "/v1/resume", api.CommentInput{Comment: comment}, "")
}

// Status returns the server's own state.
func (c *Client) Status(ctx context.Context) (api.Status, error) {
	return get[api.Status](ctx, c, "/v1/status", nil)
}

// RunScan has the server scan everything now, and returns once the report stands.
func (c *Client) RunScan(ctx context.Context) (scan.Head, error) {
	return post[scan.Head](ctx, c, "/v1/scans", nil, "")
}

// Scans lists the scans that the server keeps, newest first.
func (c *Client) Scans(ctx context.Context, p Page) (api.List[scan.Head], error) {
	return get[api.List[scan.Head]](ctx, c, "/v1/scans", p.put(url.Values{}))
}

// Scan returns the report of a scan that the server keeps; "latest" names the newest.
func (c *Client) Scan(ctx context.Context, id string) (scan.Report, error) {
	return get[scan.Report](ctx, c, "/v1/scans/"+url.PathEscape(id), nil)
}

// DiffScans returns what changed from one kept scan to another; "" for from is the scan before.
func (c *Client) DiffScans(ctx context.Context, from, to string) (scan.Difference, error) {
	q := url.Values{}
	if from != "" {
		q.Set("since", from)
	}
	return get[scan.Difference](ctx, c, "/v1/scans/"+url.PathEscape(to)+"/diff", q)
}

// Explain says whether a source gets to a port of a machine, and why.
func (c *Client) Explain(ctx context.Context, in api.ExplainInput) (scan.Explanation, error) {
	return post[scan.Explanation](ctx, c, "/v1/explanations", in, "")
}

package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/policy"
)

// Inputs of operations.
type (
	none struct{}
	ByID struct {
		ID string `path:"id" maxLength:"64" doc:"For example r-0123456789 or g-0123456789"`
	}
	byRef struct {
		Ref string `path:"ref" maxLength:"1000" doc:"A VM's name, group/name, or resource id; slashes are written %2F"`
	}
	search struct {
		Q string `query:"q" maxLength:"200" doc:"Matches names"`
	}
	Paging struct {
		After string `query:"after" maxLength:"500" doc:"The next of the part before"`
		Limit int    `query:"limit" minimum:"1" maximum:"500" default:"100"`
	}
	body[T any] struct{ Body wire[T] }
	RequestsIn  struct {
		Paging
		State []string `query:"state,explode" doc:"Any of these states"`
		Mine  bool     `query:"mine" doc:"Only the caller's own"`
		VM    string   `query:"vm" maxLength:"1000" doc:"A VM's name, group/name, or resource id"`
	}
	grantsIn struct {
		RequestsIn
		Request string `query:"request" maxLength:"64" doc:"Only those of this request"`
	}
	auditIn struct {
		Paging
		Actor     string    `query:"actor" maxLength:"200"`
		Action    string    `query:"action" maxLength:"100"`
		Object    string    `query:"object" maxLength:"1000"`
		VM        string    `query:"vm" maxLength:"200"`
		Since     time.Time `query:"since"`
		Until     time.Time `query:"until"`
		Ascending bool      `query:"ascending" doc:"Oldest first"`
	}
	Keyed[T any] struct {
		Key  string `header:"Idempotency-Key" maxLength:"200" doc:"Chosen by the caller: the same key and body again return what they made the first time"`
		Body wire[T]
	}
	decide[T any] struct {
		ByID
		Body *wire[T]
	}
	extendIn struct {
		ByID
		Keyed[api.ExtendInput]
	}
)

func op(id, method, path, tag, summary, description string) huma.Operation {
	return huma.Operation{OperationID: id, Method: method, Path: path, Tags: []string{tag}, Summary: summary, Description: description}
}

// routes registers everything that is served, and renders the OpenAPI document of it.
func (s *Server) routes() error {
	cfg := huma.DefaultConfig("Curfew", s.opt.Version)
	cfg.OpenAPIPath, cfg.DocsPath, cfg.SchemasPath = "", "", "" // huma's document is made on the first call, without a lock; ours below
	cfg.CreateHooks = nil
	cfg.Formats = map[string]huma.Format{"application/json": strictJSON, "json": strictJSON}
	cfg.RejectUnknownQueryParameters = true
	cfg.Info.Description = "Just-in-time access to Azure virtual machines. Errors are problem+json; programs decide by code."
	cfg.Info.License = &huma.License{Name: "Apache-2.0", Identifier: "Apache-2.0"}
	cfg.Components.SecuritySchemes = map[string]*huma.SecurityScheme{"bearer": {Type: "http", Scheme: "bearer", Description: "A session's token, or one that an admin gave out, or a federated one of a workload"}}
	a := humago.New(s.mux, cfg)

	s.machineRoutes(a)
	s.requestRoutes(a)
	s.reviewRoutes(a)
	s.grantRoutes(a)
	s.systemRoutes(a)
	s.scanRoutes(a)
	s.noticeRoutes(a)
	s.accountRoutes(a)
	s.loginRoutes(a)
	s.linkRoutes(a)
	s.policyRoutes(a)
	s.eventRoute(a)

	doc, err := json.MarshalIndent(a.OpenAPI(), "", "  ")
	if err != nil {
		return fmt.Errorf("writing the OpenAPI document: %w", err)
	}
	yaml, err := a.OpenAPI().YAML()
	if err != nil {
		return fmt.Errorf("writing the OpenAPI document: %w", err)
	}
	s.mux.HandleFunc("GET /openapi.json", serveBytes("application/openapi+json", doc))
	s.mux.HandleFunc("GET /openapi.yaml", serveBytes("application/openapi+yaml", yaml))
	s.mux.HandleFunc("GET /schema/event.json", serveBytes("application/schema+json", notify.Schema))
	if s.opt.Slack != nil {
		s.mux.HandleFunc("POST "+slackPath, s.slackActions)
	}
	s.mux.HandleFunc("GET /schema/policy.json", serveBytes("application/schema+json", policy.Schema()))
	s.mux.HandleFunc("GET /healthz", serveBytes("text/plain; charset=utf-8", []byte("ok\n")))
	s.mux.HandleFunc("GET /readyz", s.readyz)
	s.mux.Handle("GET /metrics", promhttp.HandlerFor(s.opt.Registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4}))
	return nil
}

func serveBytes(contentType string, b []byte) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.Header().Set("Content-Length", strconv.Itoa(len(b)))
		_, _ = w.Write(b)
	}
}

func (s *Server) machineRoutes(a huma.API) {
	register(a, op("whoami", "GET", "/v1/whoami", "system", "Who the server takes you for", ""),
		func(_ context.Context, c access.Caller, _ *none) (*answer[api.Me], error) {
			return ok(api.Me{Name: c.Name, Roles: each(c.Roles, text), Groups: c.Groups, Kind: string(c.Kind), Sponsor: c.Sponsor, Session: c.Session != "", Address: c.Address, Demo: s.opt.Demo != nil,
				Installation: s.opt.Installation, Version: s.opt.Version}), nil
		})
	register(a, op("list-vms", "GET", "/v1/vms", "machines", "List machines", "Sorted by need: what is exposed stands first."),
		func(ctx context.Context, c access.Caller, in *search) (*answer[api.List[api.VM]], error) {
			vms, err := s.svc.VMs(ctx, c, in.Q)
			if err != nil {
				return nil, err
			}
			return list(vms, "", s.vm), nil
		})
	register(a, op("get-vm", "GET", "/v1/vms/{ref}", "machines", "Show one machine", "With its protection, what reaches it, and who is in."),
		func(ctx context.Context, c access.Caller, in *byRef) (*answer[api.VM], error) {
			v, err := s.svc.VM(ctx, c, in.Ref)
			if err != nil {
				return nil, err
			}
			return ok(s.vm(v)), nil
		})
	type protectFunc func(context.Context, access.Caller, broker.ProtectInput) (broker.ProtectPlan, error)
	protect := func(f protectFunc) func(context.Context, access.Caller, *body[api.ProtectInput]) (*answer[api.ProtectPlan], error) {
		return func(ctx context.Context, c access.Caller, in *body[api.ProtectInput]) (*answer[api.ProtectPlan], error) {
			v, err := in.Body.read()
			if err != nil {
				return nil, err
			}
			p, err := f(ctx, c, protectInput(v))
			if err != nil {
				return nil, err
			}
			return ok(protectPlan(p)), nil
		}
	}
	register(a, op("plan-protection", "POST", "/v1/plans/protection", "machines", "Plan protection",
		"Computes what protecting, or with off unprotecting, would write and what it would mean. Changes nothing."), protect(s.svc.PlanProtect))
	register(a, op("protect", "POST", "/v1/protections", "machines", "Protect or unprotect machines",
		"With the digest of a plan it does what that plan says, or is refused as plan_changed. May be repeated."), protect(s.svc.Protect))
}

func (s *Server) requestRoutes(a huma.API) {
	register(a, op("plan-request", "POST", "/v1/plans/request", "requests", "Plan a request",
		"Would it be allowed, who must approve, would you get in, what else changes. Changes nothing."),
		func(ctx context.Context, c access.Caller, in *body[api.RequestInput]) (*answer[api.RequestPlan], error) {
			v, err := in.Body.read()
			if err != nil {
				return nil, err
			}
			p, err := s.svc.PlanRequest(ctx, c, requestInput(v, ""))
			if err != nil {
				return nil, err
			}
			return ok(requestPlan(p)), nil
		})
	create := op("create-request", "POST", "/v1/requests", "requests", "Ask for access", "")
	create.DefaultStatus = http.StatusCreated
	register(a, create, func(ctx context.Context, c access.Caller, in *Keyed[api.RequestInput]) (*answer[api.Request], error) {
		v, err := in.Body.read()
		if err == nil {
			err = checkKey(in.Key)
		}
		if err != nil {
			return nil, err
		}
		return reply(request)(s.svc.CreateRequest(ctx, c, requestInput(v, in.Key)))
	})
	register(a, op("list-requests", "GET", "/v1/requests", "requests", "List requests", "Newest first."),
		func(ctx context.Context, c access.Caller, in *RequestsIn) (*answer[api.List[api.Request]], error) {
			f := broker.RequestFilter{Page: broker.Page{After: in.After, Limit: in.Limit}}
			var err error
			if f.States, err = states(in.State, access.RequestStates); err != nil {
				return nil, err
			}
			if in.Mine {
				f.Requester = c.Name
			}
			if f.VM, err = s.vmID(ctx, c, in.VM); err != nil {
				return nil, err
			}
			rs, next, err := s.svc.Requests(ctx, c, f)
			if err != nil {
				return nil, err
			}
			return list(rs, next, request), nil
		})
	register(a, op("get-request", "GET", "/v1/requests/{id}", "requests", "Show one request", ""),
		func(ctx context.Context, c access.Caller, in *ByID) (*answer[api.Request], error) {
			return reply(request)(s.svc.Request(ctx, c, access.RequestID(in.ID)))
		})
	register(a, op("approve-request", "POST", "/v1/requests/{id}/approve", "requests", "Approve a request",
		"What is set in the body narrows the request; nothing widens it. Nobody approves their own. The digest binds it to what was shown."),
		func(ctx context.Context, c access.Caller, in *decide[api.ReviewInput]) (*answer[api.Request], error) {
			v, err := in.Body.read()
			if err == nil && v.Digest == "" {
				err = access.Errorf(access.CodeInvalid, "an approval names the digest of the request that was shown, and this one does not").
					WithHint("read the request, show it to who decides, and send its digest")
			}
			if err != nil {
				return nil, err
			}
			return reply(request)(s.svc.Approve(ctx, c, access.RequestID(in.ID),
				broker.ReviewInput{Digest: v.Digest, Comment: v.Comment, Duration: time.Duration(v.Duration), Source: v.Source, Ports: v.Ports}))
		})
	register(a, op("deny-request", "POST", "/v1/requests/{id}/deny", "requests", "Deny a request", ""),
		func(ctx context.Context, c access.Caller, in *decide[api.CommentInput]) (*answer[api.Request], error) {
			v, err := in.Body.read()
			if err != nil {
				return nil, err
			}
			return reply(request)(s.svc.Deny(ctx, c, access.RequestID(in.ID), v.Comment))
		})
	register(a, op("cancel-request", "POST", "/v1/requests/{id}/cancel", "requests", "Take your own pending request back", ""),
		func(ctx context.Context, c access.Caller, in *ByID) (*answer[api.Request], error) {
			return reply(request)(s.svc.Cancel(ctx, c, access.RequestID(in.ID)))
		})
}

func (s *Server) grantRoutes(a huma.API) {
	register(a, op("list-grants", "GET", "/v1/grants", "grants", "List grants", "Newest first."),
		func(ctx context.Context, c access.Caller, in *grantsIn) (*answer[api.List[api.Grant]], error) {
			f := broker.GrantFilter{Request: access.RequestID(in.Request), Page: broker.Page{After: in.After, Limit: in.Limit}}
			var err error
			if f.States, err = states(in.State, access.GrantStates); err != nil {
				return nil, err
			}
			if in.Mine {
				f.Requester = c.Name
			}
			if f.VM, err = s.vmID(ctx, c, in.VM); err != nil {
				return nil, err
			}
			gs, next, err := s.svc.Grants(ctx, c, f)
			if err != nil {
				return nil, err
			}
			return list(gs, next, s.grant), nil
		})
	register(a, op("get-grant", "GET", "/v1/grants/{id}", "grants", "Show one grant", "While it is live, with where to connect to."),
		func(ctx context.Context, c access.Caller, in *ByID) (*answer[api.Grant], error) {
			g, err := s.svc.Grant(ctx, c, access.GrantID(in.ID))
			if err != nil {
				return nil, err
			}
			out := s.grant(g)
			if g.State == access.Active {
				// The grant is what was asked for; where to connect to is help, and its absence no error.
				if v, err := s.svc.VM(ctx, c, g.Target.VM.ID); err == nil {
					out.Connect = connectTo(v.Connect, g.Target.Ports)
				}
			}
			return ok(out), nil
		})
	extend := op("extend-grant", "POST", "/v1/grants/{id}/extend", "grants", "Ask for more time", "Makes a request, which needs its own review.")
	extend.DefaultStatus = http.StatusCreated
	register(a, extend, func(ctx context.Context, c access.Caller, in *extendIn) (*answer[api.Request], error) {
		v, err := in.Body.read()
		if err == nil {
			err = checkKey(in.Key)
		}
		if err != nil {
			return nil, err
		}
		return reply(request)(s.svc.Extend(ctx, c, access.GrantID(in.ID), time.Duration(v.Duration), v.Reason, in.Key))
	})
	register(a, op("close-grant", "POST", "/v1/grants/{id}/close", "grants", "Shut your own grant early", ""),
		func(ctx context.Context, c access.Caller, in *ByID) (*answer[api.Grant], error) {
			return reply(s.grant)(s.svc.Close(ctx, c, access.GrantID(in.ID)))
		})
	register(a, op("revoke-grant", "POST", "/v1/grants/{id}/revoke", "grants", "Shut somebody else's grant", ""),
		func(ctx context.Context, c access.Caller, in *decide[api.CommentInput]) (*answer[api.Grant], error) {
			v, err := in.Body.read()
			if err != nil {
				return nil, err
			}
			return reply(s.grant)(s.svc.Revoke(ctx, c, access.GrantID(in.ID), v.Comment))
		})
}

func (s *Server) systemRoutes(a huma.API) {
	register(a, op("list-audit", "GET", "/v1/audit", "audit", "Read the audit log", "Newest first unless ascending."), s.audit)
	register(a, op("get-checkpoint", "GET", "/v1/audit/checkpoint", "audit", "The head of the audit log",
		"Keep it outside: whoever has it can prove later that nothing before it was changed. Signed, if the server has a key."),
		func(ctx context.Context, c access.Caller, _ *none) (*answer[api.Checkpoint], error) {
			cp, err := s.svc.Checkpoint(ctx, c)
			if err != nil {
				return nil, err
			}
			out := api.Checkpoint{Origin: cp.Origin, Size: cp.Size, Root: cp.Root.String(), Text: cp.String()}
			if s.opt.Sign != nil {
				if out.Text, out.Unsigned, err = s.opt.Sign(cp); err != nil {
					return nil, err
				}
			}
			return ok(out), nil
		})
	register(a, op("reconcile", "POST", "/v1/reconcile", "system", "Run a sweep now", "May be repeated."),
		func(ctx context.Context, c access.Caller, _ *none) (*answer[api.SweepReport], error) {
			return reply(sweepReport)(s.svc.Reconcile(ctx, c))
		})
	register(a, op("resume", "POST", "/v1/resume", "system", "End a hold on openings", "Once an admin has looked at what is live."),
		func(ctx context.Context, c access.Caller, in *struct{ Body *wire[api.CommentInput] }) (*answer[api.Status], error) {
			v, err := in.Body.read()
			if err == nil {
				err = s.svc.Resume(ctx, c, v.Comment)
			}
			if err != nil {
				return nil, err
			}
			return ok(status(s.svc.Status(ctx))), nil
		})
	register(a, op("get-status", "GET", "/v1/status", "system", "The server's own state", ""),
		func(ctx context.Context, c access.Caller, _ *none) (*answer[api.Status], error) {
			st := status(s.svc.Status(ctx))
			if !c.Has(access.Admin) && st.Policy != "" {
				st.Policy = "the newest policy is wrong, and is not in force" // what stands in it is for admins
			}
			return ok(st), nil
		})
}

func (s *Server) audit(ctx context.Context, c access.Caller, in *auditIn) (*answer[api.List[api.AuditEntry]], error) {
	f := broker.AuditFilter{Actor: in.Actor, Action: in.Action, Object: in.Object, VM: in.VM, Since: utc(in.Since), Until: utc(in.Until),
		Ascending: in.Ascending, Limit: in.Limit}
	if in.Ascending {
		f.After = -1 // the log begins with entry 0
	}
	if in.After != "" {
		n, err := strconv.ParseInt(in.After, 10, 64)
		if err != nil || n < 0 {
			e := access.Errorf(access.CodeInvalid, "after is not the index of an entry")
			e.Field = "after"
			return nil, e.WithHint("give the next of the part before")
		}
		f.After = n
		if n == 0 && !in.Ascending {
			return list(nil, "", entry), nil // nothing is older than the first
		}
	}
	es, err := s.svc.Entries(ctx, c, f)
	if err != nil {
		return nil, err
	}
	next := ""
	if n := len(es); n > 0 && n >= in.Limit {
		next = strconv.FormatInt(es[n-1].Index, 10)
	}
	return list(es, next, entry), nil
}

// reply converts the result of a use case, or passes its error on.
func reply[A, B any](f func(A) B) func(A, error) (*answer[B], error) {
	return func(v A, err error) (*answer[B], error) {
		if err != nil {
			return nil, err
		}
		return ok(f(v)), nil
	}
}

// vmID turns a reference in a filter into a resource id. An id is taken as it is: what it named may be gone.
func (s *Server) vmID(ctx context.Context, c access.Caller, ref string) (string, error) {
	if ref == "" || strings.HasPrefix(ref, "/") {
		return ref, nil
	}
	v, err := s.svc.VM(ctx, c, ref)
	if e := (*access.Error)(nil); errors.As(err, &e) && e.Code == access.CodeNotFound {
		gone := *e
		gone.Hint = strings.TrimPrefix(e.Hint+"; one that is gone is named by its resource id", "; ")
		return "", &gone
	}
	return v.VM.ID, err
}

func states[T ~string](in []string, known []T) ([]T, error) {
	var out []T
next:
	for _, s := range in {
		for _, k := range known {
			if string(k) == s {
				out = append(out, k)
				continue next
			}
		}
		var names []string
		for _, k := range known {
			names = append(names, string(k))
		}
		e := access.Errorf(access.CodeInvalid, "there is no such state").WithHint("the states are %s", strings.Join(names, ", "))
		e.Field = "state"
		return nil, e
	}
	return out, nil
}

// checkKey refuses idempotency keys that would not come back the same from a log or a database.
func checkKey(key string) error {
	for _, r := range key {
		if r <= ' ' || r > '~' {
			e := access.Errorf(access.CodeInvalid, "the idempotency key holds a blank or a sign that is not printable ASCII")
			e.Field = "Idempotency-Key"
			return e.WithHint("a random UUID does well")
		}
	}
	return nil
}

// readyz tells whether the server does its work, and if not, why. A hold is no reason: closing goes on.
func (s *Server) readyz(w http.ResponseWriter, r *http.Request) {
	st := s.svc.Status(r.Context())
	out := api.Readiness{Ready: st.Ready}
	for what, why := range map[string]string{"store": st.Store, "azure": st.Azure, "hold": st.Hold} {
		if why != "" {
			out.Reasons = append(out.Reasons, what+": "+why)
		}
	}
	slices.Sort(out.Reasons)
	if !out.Ready && len(out.Reasons) == 0 {
		out.Reasons = append(out.Reasons, "sweep: the first one since the start is not done")
	}
	if s.stopped() {
		out.Ready, out.Reasons = false, append(out.Reasons, "the server is shutting down")
	}
	w.Header().Set("Content-Type", "application/json")
	if !out.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(out)
}

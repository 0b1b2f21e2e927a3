package server

import (
	"cmp"
	"context"

	"github.com/danielgtaylor/huma/v2"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/scan"
)

type ScanID struct {
	ID string `path:"id" maxLength:"64" doc:"For example s-0123456789, or latest"`
}

type scanDiffIn struct {
	ScanID
	Since string `query:"since" maxLength:"64" doc:"The older scan; default: the one before"`
}

func (s *Server) scanRoutes(a huma.API) {
	register(a, op("run-scan", "POST", "/v1/scans", "scans", "Scan everything now",
		"Reads Azure, judges what it read, keeps the report, and answers once it stands. Callers at the same time share one scan. May be repeated."),
		func(ctx context.Context, c access.Caller, _ *none) (*answer[scan.Head], error) {
			return reply(same[scan.Head])(s.svc.RunScan(ctx, c))
		})
	register(a, op("list-scans", "GET", "/v1/scans", "scans", "List the scans that are kept", "Newest first."),
		func(ctx context.Context, c access.Caller, in *Paging) (*answer[api.List[scan.Head]], error) {
			hs, next, err := s.svc.Scans(ctx, c, broker.Page{After: in.After, Limit: in.Limit})
			if err != nil {
				return nil, err
			}
			return list(hs, next, same[scan.Head]), nil
		})
	register(a, op("get-scan", "GET", "/v1/scans/{id}", "scans", "The report of a scan", "Findings that fail or could not be judged, worst first."),
		func(ctx context.Context, c access.Caller, in *ScanID) (*answer[scan.Report], error) {
			rec, err := s.svc.Scan(ctx, c, in.ID)
			if err != nil {
				return nil, err
			}
			if rec.Report.Findings == nil {
				rec.Report.Findings = []scan.Finding{}
			}
			return ok(rec.Report), nil
		})
	register(a, op("explain-port", "POST", "/v1/explanations", "scans", "Does a source get to a port, and why",
		"Reads Azure, walks every way to the port hop by hop, and says which rule decides at each. Changes nothing."),
		func(ctx context.Context, c access.Caller, in *body[api.ExplainInput]) (*answer[scan.Explanation], error) {
			v, err := in.Body.read()
			if err != nil {
				return nil, err
			}
			q := broker.ExplainInput{VM: v.VM, Port: v.Port, SourcePort: v.FromPort}
			if q.Protocol, err = access.ParseProtocol(cmp.Or(v.Protocol, "tcp")); err != nil {
				return nil, err
			}
			if q.From, err = scan.ParseFrom(v.From); err != nil {
				e := access.Errorf(access.CodeInvalid, "%v", err).WithHint("give an address, internet or virtual-network")
				e.Field = "from"
				return nil, e
			}
			x, err := s.svc.Explain(ctx, c, q)
			if err == nil && x.Ways == nil {
				x.Ways = []scan.Way{}
			}
			return reply(same[scan.Explanation])(x, err)
		})
	register(a, op("diff-scans", "GET", "/v1/scans/{id}/diff", "scans", "What changed since an older scan",
		"What appeared, what went, and what is judged otherwise. What the later scan may merely not have seen is called doubtful, not gone."),
		func(ctx context.Context, c access.Caller, in *scanDiffIn) (*answer[scan.Difference], error) {
			return reply(same[scan.Difference])(s.svc.DiffScans(ctx, c, in.Since, in.ID))
		})
}

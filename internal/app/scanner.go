package app

import (
	"context"
	"log/slog"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/azure"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/netsec"
	"github.com/curfew-jit/curfew/internal/posture"
	"github.com/curfew-jit/curfew/internal/scan"
	"github.com/curfew-jit/curfew/internal/scan/collect"
	"github.com/curfew-jit/curfew/internal/scan/estate"
)

// Collect reads an estate. What could not be read is in its gaps.
func Collect(ctx context.Context, c collect.Config) (*estate.Estate, scan.Source, error) {
	b := estate.NewBuilder()
	src, err := collect.Into(ctx, c, b)
	if err != nil {
		return nil, src, azure.UserError(err)
	}
	return b.Build(), src, nil
}

// filled is up to how many findings get all of their evidence and their remediation in a kept report, the worst first: some kilobytes
// each. Of the rest the ports and rules are kept, which is what the metrics and a baseline go by.
const filled = 5000

// scanner implements broker.Scanner over Azure.
type scanner struct {
	az            *azure.Client
	cloud         string
	subscriptions []string
	clock         clock.Clock
	log           *slog.Logger
}

// Scan implements broker.Scanner.
func (s *scanner) Scan(ctx context.Context) (scan.Report, error) {
	ctx = azure.WithPriority(ctx, azure.Background)
	e, src, err := Collect(ctx, collect.Config{Client: s.az, Cloud: s.cloud, Subscriptions: s.subscriptions, Clock: s.clock, Log: s.log,
		Note: func(n string) { s.log.Info("scan", "note", n) }})
	if err != nil {
		return scan.Report{}, err
	}
	judge := scan.Options{Now: s.clock.Now(), Lean: true}
	out, err := posture.Judge(e, src, posture.Options{Judge: judge})
	if err != nil {
		return scan.Report{}, err
	}
	fill := posture.Fill(e, judge)
	for i := range out.Report.Findings[:min(filled, len(out.Report.Findings))] {
		fill(&out.Report.Findings[i])
	}
	return out.Report, nil
}

// Explain implements broker.Scanner.
func (s *scanner) Explain(ctx context.Context, in broker.ExplainInput) (scan.Explanation, error) {
	e, _, err := Collect(ctx, collect.Config{Client: s.az, Cloud: s.cloud, Subscriptions: s.subscriptions, Clock: s.clock, Log: s.log})
	if err != nil {
		return scan.Explanation{}, err
	}
	q := scan.Question{Protocol: netsec.TCP, Port: in.Port, From: in.From, SourcePort: in.SourcePort}
	if in.Protocol == access.UDP {
		q.Protocol = netsec.UDP
	}
	return posture.Explain(e, in.VM, q)
}

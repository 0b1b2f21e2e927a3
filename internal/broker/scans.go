package broker

import (
	"context"
	"fmt"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/scan"
)

// Scanner looks at everything and judges it. It changes nothing.
type Scanner interface {
	// Scan reads Azure and judges what it read. What could not be read is in the report's gaps; an error means that there is no
	// report at all.
	Scan(ctx context.Context) (scan.Report, error)
	// Explain reads Azure and says whether a source gets to a port of a machine, and why.
	Explain(ctx context.Context, in ExplainInput) (scan.Explanation, error)
}

// ExplainInput asks whether a source gets to a port.
type ExplainInput struct {
	VM       string          // reference
	Port     uint16          // 0: 22 on Linux, 3389 on Windows
	Protocol access.Protocol // "" is tcp
	From     scan.From
	// SourcePort is the port that the source sends from. 0: whichever gets it in.
	SourcePort uint16
}

// ScanRecord is a kept scan.
type ScanRecord struct {
	scan.Head
	Report scan.Report `json:"report"`
}

// Latest names the newest scan wherever the id of one is asked for.
const Latest = "latest"

// scanLimit bounds one scan.
const scanLimit = 30 * time.Minute

// keptScans is how many scans are kept at least, however old.
const keptScans = 50

// told is how many findings of one scan get an entry of their own; the rest are counted.
const told = 50

// mayScan are the roles that may see what is open: a list of all open doors is not for everybody.
var mayScan = []access.Role{access.Auditor, access.Admin}

// RunScan implements Service. Callers at the same time share one scan.
func (b *Broker) RunScan(ctx context.Context, c access.Caller) (scan.Head, error) {
	if err := b.need(ctx, c, "scan.run", "", mayScan...); err != nil {
		return scan.Head{}, err
	}
	if b.cfg.Scanner == nil {
		return scan.Head{}, access.Errorf(access.CodeUnavailable, "this server does not scan").WithHint("scan from here, with your own Azure login: curfew scan --standalone")
	}
	e := b.entry(c, "scan.run", audit.Intent, "", "%s has everything scanned", c.Name)
	if err := b.update(ctx, func(tx Tx) error { _, err := tx.Append(e); return err }); err != nil {
		return scan.Head{}, err
	}
	return b.scan(ctx, c.Name)
}

// scanning is one scan that runs; done is closed when head and err stand.
type scanning struct {
	done chan struct{}
	head scan.Head
	err  error
}

func (b *Broker) scan(ctx context.Context, by string) (scan.Head, error) {
	b.mu.Lock()
	run := b.scanRun
	if run == nil {
		run = &scanning{done: make(chan struct{})}
		b.scanRun = run
		go func() {
			// A caller that goes away does not end it for the others.
			ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), scanLimit)
			defer cancel()
			run.head, run.err = b.scanNow(ctx, by)
			b.mu.Lock()
			b.scanRun = nil
			b.mu.Unlock()
			close(run.done)
		}()
	}
	b.mu.Unlock()
	select {
	case <-run.done:
		return run.head, run.err
	case <-ctx.Done():
		return scan.Head{}, access.Errorf(access.CodeUnavailable, "the scan goes on, and was not waited for").Wrap(ctx.Err()).
			WithHint("look at it later: curfew scan list")
	}
}

func (b *Broker) scanNow(ctx context.Context, by string) (head scan.Head, err error) {
	defer func() {
		if v := recover(); v != nil {
			err = access.Errorf(access.CodeInternal, "the scan failed").Wrap(fmt.Errorf("panic while scanning: %v", v))
			b.log.Error("panic", "while", "scanning", "value", v)
		}
	}()
	began := b.cfg.Clock.Now()
	rep, err := b.cfg.Scanner.Scan(ctx)
	if err != nil {
		b.record(ctx, b.entry(access.Caller{Name: by, Service: true}, "scan.done", audit.Failed, "", "the scan failed: %s", words(err)))
		return scan.Head{}, err
	}
	rec := ScanRecord{Head: scan.Head{ID: "s-" + newID(), At: rep.At, By: by, Took: b.cfg.Clock.Now().Sub(began).Seconds(), Summary: rep.Summary}, Report: rep}
	rec.Report.ID = rec.ID
	var before *ScanRecord
	err = b.update(ctx, func(tx Tx) error {
		last, _, err := tx.Scans(Page{Limit: 1})
		if err != nil {
			return err
		}
		if len(last) > 0 {
			old, err := tx.Scan(last[0].ID)
			if err != nil {
				return err
			}
			before = &old
		}
		if err := tx.InsertScan(rec); err != nil {
			return err
		}
		for _, e := range b.scanEntries(rec, before) {
			if _, err := tx.Append(e); err != nil {
				return err
			}
		}
		return tx.ForgetScans(keptScans, b.Now().Add(-b.cfg.ScanRetention))
	})
	if err != nil {
		return scan.Head{}, err
	}
	if b.cfg.OnScan != nil {
		b.cfg.OnScan(rec)
	}
	return rec.Head, nil
}

// scanEntries tell of a scan, and of what changed since the one before.
func (b *Broker) scanEntries(rec ScanRecord, before *ScanRecord) []audit.Entry {
	c := access.Caller{Name: rec.By, Service: true}
	s := rec.Summary
	whole := ""
	if !s.Complete {
		whole = fmt.Sprintf("; NOT complete: %d sources could not be read", len(rec.Report.Gaps))
	}
	done := b.entry(c, "scan.done", audit.Done, rec.ID, "%d machines, %d of them open to the Internet; %d findings fail, %d could not be judged%s",
		s.VMs, s.Exposed, s.Statuses[scan.Fail], s.Statuses[scan.Unknown], whole)
	if before == nil {
		return []audit.Entry{done}
	}
	d := scan.Diff(before.Report, rec.Report)
	done.Message += fmt.Sprintf("; since %s %d appeared, %d went, %d changed", before.ID, len(d.Appeared), len(d.Gone), len(d.Changed))
	out := []audit.Entry{done}
	tell := func(action string, fs []scan.Finding) {
		for i, f := range fs {
			if i == told {
				out = append(out, b.entry(c, action, audit.Done, rec.ID, "and %d more; see: curfew scan diff %s %s", len(fs)-told, before.ID, rec.ID))
				return
			}
			e := b.entry(c, action, audit.Done, f.ID, "%s %s: %s", f.Rule, clean(f.Name), clean(f.Reason))
			if f.Type == vmType {
				e.VM = f.Resource
			}
			out = append(out, detail(e, "rule", string(f.Rule), "status", string(f.Status), "severity", string(f.Severity), "scan", rec.ID))
		}
	}
	tell("scan.appeared", d.Appeared)
	tell("scan.gone", d.Gone)
	var changed []scan.Finding
	for _, ch := range d.Changed {
		changed = append(changed, ch.After)
	}
	tell("scan.changed", changed)
	return out
}

const vmType = "Microsoft.Compute/virtualMachines"

// Explain implements Service. It reads Azure anew, and keeps nothing.
func (b *Broker) Explain(ctx context.Context, c access.Caller, in ExplainInput) (scan.Explanation, error) {
	if err := b.need(ctx, c, "scan.explain", in.VM, mayScan...); err != nil {
		return scan.Explanation{}, err
	}
	if b.cfg.Scanner == nil {
		return scan.Explanation{}, access.Errorf(access.CodeUnavailable, "this server does not scan").WithHint("explain from here, with your own Azure login: curfew scan explain --standalone")
	}
	ctx, cancel := context.WithTimeout(ctx, scanLimit)
	defer cancel()
	return b.cfg.Scanner.Explain(ctx, in)
}

// Scans implements Service, newest first.
func (b *Broker) Scans(ctx context.Context, c access.Caller, p Page) (out []scan.Head, next string, err error) {
	if err := b.need(ctx, c, "scan.read", "", mayScan...); err != nil {
		return nil, "", err
	}
	err = b.view(ctx, func(tx Tx) (err error) { out, next, err = tx.Scans(p); return err })
	return out, next, err
}

// Scan implements Service; Latest names the newest.
func (b *Broker) Scan(ctx context.Context, c access.Caller, id string) (out ScanRecord, err error) {
	if err := b.need(ctx, c, "scan.read", id, mayScan...); err != nil {
		return out, err
	}
	err = b.view(ctx, func(tx Tx) (err error) { out, err = scanOf(tx, id); return err })
	return out, err
}

// DiffScans implements Service: what changed from one scan to another. Without a name for the first it is the one before the second.
func (b *Broker) DiffScans(ctx context.Context, c access.Caller, from, to string) (out scan.Difference, err error) {
	if err := b.need(ctx, c, "scan.read", to, mayScan...); err != nil {
		return out, err
	}
	var before, after ScanRecord
	err = b.view(ctx, func(tx Tx) error {
		var err error
		if after, err = scanOf(tx, to); err != nil {
			return err
		}
		if from == "" {
			older, _, err := tx.Scans(Page{After: after.ID, Limit: 1})
			if err != nil {
				return err
			}
			if len(older) == 0 {
				return access.Errorf(access.CodeNotFound, "no scan is kept from before %s", after.ID).WithHint("name two scans: curfew scan list shows them")
			}
			from = older[0].ID
		}
		before, err = scanOf(tx, from)
		return err
	})
	if err != nil {
		return out, err
	}
	return scan.Diff(before.Report, after.Report), nil
}

func scanOf(tx Tx, id string) (ScanRecord, error) {
	if id == "" || id == Latest {
		last, _, err := tx.Scans(Page{Limit: 1})
		if err != nil {
			return ScanRecord{}, err
		}
		if len(last) == 0 {
			return ScanRecord{}, access.Errorf(access.CodeNotFound, "nothing was scanned yet").WithHint("scan now: curfew scan")
		}
		id = last[0].ID
	}
	return tx.Scan(id)
}

// ScanOnSchedule scans whenever the newest scan is older than every, until ctx ends. A scan that fails is tried again after a tenth of
// that, at most ten minutes.
func (b *Broker) ScanOnSchedule(ctx context.Context, every time.Duration) {
	wait := time.Duration(0)
	for first := true; ; first = false {
		if first {
			var last []scan.Head
			err := b.view(ctx, func(tx Tx) (err error) { last, _, err = tx.Scans(Page{Limit: 1}); return err })
			if err == nil && len(last) > 0 {
				wait = max(0, every-b.cfg.Clock.Now().Sub(last[0].At))
				if b.cfg.OnScan != nil {
					if rec, err := b.lastScan(ctx, last[0].ID); err == nil {
						b.cfg.OnScan(rec)
					}
				}
			}
		}
		if wait > 0 {
			select {
			case <-ctx.Done():
				return
			case <-b.cfg.Clock.After(wait):
			}
		}
		wait = every
		if _, err := b.scan(ctx, system.Name); err != nil {
			if ctx.Err() != nil {
				return
			}
			b.log.Warn("the scheduled scan failed", "error", err)
			wait = min(every/10, 10*time.Minute)
		}
	}
}

func (b *Broker) lastScan(ctx context.Context, id string) (rec ScanRecord, err error) {
	err = b.view(ctx, func(tx Tx) (err error) { rec, err = tx.Scan(id); return err })
	return rec, err
}

package benchmarks_test

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	bt "github.com/curfew-jit/curfew/internal/broker/brokertest"
	"github.com/curfew-jit/curfew/internal/client"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/server"
)

// BenchmarkAPI has sixteen people ask for access and eight approvers decide, through the API over loopback, with the database and the
// audit log on disk: requests created and decided in a second. Afterwards every one must stand there decided, with its grant and its
// two entries. Their starts lie ahead, so that Azure has no part in it.
func BenchmarkAPI(b *testing.B) {
	const total = 3000
	for range b.N {
		b.StopTimer()
		e := newEstate(1, 1, 40)
		s := bt.New(b, bt.Options{Estate: e.body, Dir: b.TempDir()})
		protect(b, s, e.all())
		people := []server.Person{}
		token := func(name string) string { return "token-of-" + name }
		add := func(name string, role access.Role) {
			sum := sha256.Sum256([]byte(token(name)))
			people = append(people, server.Person{Name: name, Roles: []access.Role{role}, TokenSHA256: hex.EncodeToString(sum[:])})
		}
		for i := range 16 {
			add(fmt.Sprint("asker-", i), access.Requester)
		}
		for i := range 8 {
			add(fmt.Sprint("approver-", i), access.Approver)
		}
		srv, err := server.New(server.Options{Service: s.Broker, People: people, Installation: bt.Installation, Version: "bench", Clock: clock.System{},
			Limits: server.Limits{PerPerson: 1e6, PerAddress: 1e6}})
		if err != nil {
			b.Fatal(err)
		}
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		ctx, stop := context.WithCancel(b.Context())
		done := make(chan error, 1)
		go func() { done <- srv.Run(ctx, l) }()
		as := func(name string) *client.Client {
			c, err := client.New(client.Options{Server: "http://" + l.Addr().String(), Token: token(name)})
			if err != nil {
				b.Fatal(err)
			}
			return c
		}
		asked := make(chan api.Request, 32)
		var next atomic.Int64
		var mu sync.Mutex
		var took []time.Duration
		note := func(d time.Duration) { mu.Lock(); took = append(took, d); mu.Unlock() }
		begin := time.Now()
		var askers, approvers sync.WaitGroup
		b.StartTimer()
		cpu0, at := cpu(), time.Now()
		for i := range 16 {
			c := as(fmt.Sprint("asker-", i))
			askers.Go(func() {
				for {
					n := next.Add(1)
					if n > total {
						return
					}
					t := time.Now()
					r, err := c.CreateRequest(ctx, api.RequestInput{VMs: []string{e.vms[0][n%40]}, Source: "203.0.113.9", Duration: api.Duration(time.Hour), Reason: "bench",
						StartAt: begin.Add(24*time.Hour + time.Duration(n)*time.Second)}, "")
					if err != nil {
						b.Error(err)
						return
					}
					note(time.Since(t))
					asked <- r
				}
			})
		}
		for i := range 8 {
			c := as(fmt.Sprint("approver-", i))
			approvers.Go(func() {
				for r := range asked {
					t := time.Now()
					if _, err := c.Approve(ctx, r.ID, api.ReviewInput{Digest: r.Digest}); err != nil {
						b.Error(err)
						return
					}
					note(time.Since(t))
				}
			})
		}
		askers.Wait()
		close(asked)
		approvers.Wait()
		elapsed, used := time.Since(at), cpu()-cpu0
		b.StopTimer()
		count(b, s, total)
		slices.Sort(took)
		b.ReportMetric(float64(total)/elapsed.Seconds(), "requests/s")
		b.ReportMetric(took[len(took)/2].Seconds()*1000, "ms-median")
		b.ReportMetric(took[len(took)*99/100].Seconds()*1000, "ms-p99")
		b.ReportMetric(used.Seconds(), "s-processor")
		stop()
		if err := <-done; err != nil {
			b.Error(err)
		}
		s.Stop()
	}
}

// count fails unless every request is approved once, with one grant, and both stand in the log.
func count(b *testing.B, s *bt.Stack, total int) {
	b.Helper()
	requests, grants, created, approved := 0, 0, map[string]int{}, map[string]int{}
	f := broker.RequestFilter{States: []access.RequestState{access.Approved}, Page: broker.Page{Limit: 500}}
	for {
		rs, next, err := s.Broker.Requests(b.Context(), bt.Auditor, f)
		if err != nil {
			b.Fatal(err)
		}
		for _, r := range rs {
			requests++
			grants += len(r.Grants)
		}
		if f.Page.After = next; next == "" {
			break
		}
	}
	for _, e := range s.Log() {
		switch e.Action {
		case "request.create":
			created[e.Object]++
		case "request.approve":
			approved[e.Object]++
		}
	}
	if requests != total || grants != total || len(created) != total || len(approved) != total {
		b.Fatalf("%d requests approved, %d grants, %d and %d in the log; want %d of each", requests, grants, len(created), len(approved), total)
	}
}

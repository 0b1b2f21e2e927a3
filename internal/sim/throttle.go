package sim

import (
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"
)

// bucket is one of ARM's token buckets (FACTS 3): per subscription, principal and kind of operation.
type bucket struct {
	tokens float64
	at     time.Time
}

type limits struct{ capacity, refill float64 }

var bucketLimits = map[string]limits{"reads": {250, 25}, "writes": {200, 10}, "deletes": {200, 10}}

func bucketOf(method string) string {
	switch method {
	case http.MethodGet, http.MethodHead:
		return "reads"
	case http.MethodDelete:
		return "deletes"
	}
	return "writes"
}

func (s *Sim) bucketLocked(r *request) (*bucket, string) {
	segs := strings.SplitN(strings.ToLower(strings.TrimPrefix(r.path, "/")), "/", 3)
	if len(segs) < 2 || segs[0] != "subscriptions" {
		return nil, ""
	}
	kind := bucketOf(r.method)
	return s.fillBucketLocked(segs[1]+"|"+r.principal+"|"+kind, bucketLimits[kind]), segs[1]
}

// globalLocked is the bucket of all principals together: 15 times the size (FACTS 3, from recordings).
func (s *Sim) globalLocked(sub, kind string) *bucket {
	l := bucketLimits[kind]
	return s.fillBucketLocked(sub+"||"+kind, limits{globalFactor * l.capacity, globalFactor * l.refill})
}

const globalFactor = 15

func (s *Sim) fillBucketLocked(key string, l limits) *bucket {
	b, now := s.buckets[key], s.cfg.Now()
	if b == nil {
		b = &bucket{tokens: l.capacity, at: now}
		s.buckets[key] = b
	}
	b.tokens = math.Min(l.capacity, b.tokens+math.Max(0, now.Sub(b.at).Seconds())*l.refill)
	b.at = now
	return b
}

// throttleLocked takes a token; without one, and where Config.Throttle is on, the request is refused.
func (s *Sim) throttleLocked(r *request) *armError {
	b, sub := s.bucketLocked(r)
	if b == nil {
		return nil
	}
	kind := bucketOf(r.method)
	all := s.globalLocked(sub, kind)
	if b.tokens >= 1 && all.tokens >= 1 {
		b.tokens--
		all.tokens--
		return nil
	}
	if !s.cfg.Throttle {
		b.tokens, all.tokens = max(0, b.tokens-1), max(0, all.tokens-1)
		return nil
	}
	if all.tokens < 1 {
		b = all
	}
	wait := int(math.Ceil((1 - b.tokens) / bucketLimits[kind].refill))
	return throttled(kind[:len(kind)-1], sub, r.principal, strconv.Itoa(max(1, wait)))
}

// limitHeadersLocked shows what is left.
func (s *Sim) limitHeadersLocked(r *request, a *answer, now time.Time) {
	b, sub := s.bucketLocked(r)
	if b == nil {
		return
	}
	kind := bucketOf(r.method)
	a.header.Set("X-Ms-Ratelimit-Remaining-Subscription-"+strings.ToUpper(kind[:1])+kind[1:], strconv.Itoa(int(b.tokens)))
	a.header.Set("X-Ms-Ratelimit-Remaining-Subscription-Global-"+strings.ToUpper(kind[:1])+kind[1:], strconv.Itoa(int(s.globalLocked(sub, kind).tokens)))
}

// graphWindow counts Resource Graph queries of one principal: 15 in 5 seconds (FACTS 3).
type graphWindow struct {
	start time.Time
	used  int
}

const (
	graphQueries = 15
	graphSpan    = 5 * time.Second
)

// Without Config.GraphQuota every query finds the quota as if it were the first: clients that wait when little is left need not.
func (s *Sim) graphQuotaLocked(principal string) (remaining int, resets string, ok bool) {
	if !s.cfg.GraphQuota {
		return graphQueries - 1, "00:00:05", true
	}
	now := s.cfg.Now()
	w := s.quota[principal]
	if w == nil || now.Sub(w.start) >= graphSpan || now.Before(w.start) {
		w = &graphWindow{start: now}
		s.quota[principal] = w
	}
	left := w.start.Add(graphSpan).Sub(now)
	resets = fmt.Sprintf("00:00:%02d", int(math.Ceil(left.Seconds())))
	if w.used >= graphQueries {
		return 0, resets, false
	}
	w.used++
	return graphQueries - w.used, resets, true
}

package server

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"time"

	"github.com/danielgtaylor/huma/v2"
	"github.com/danielgtaylor/huma/v2/adapters/humago"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
)

// writeTime is how long a reader of an event stream may stand still before it is given up.
const writeTime = 30 * time.Second

type eventsIn struct {
	After  string `query:"after" maxLength:"20" doc:"Start after this index; absent: from now on"`
	LastID string `header:"Last-Event-ID" maxLength:"20" doc:"As after, and stronger: what a reader that connects again sends by itself"`
}

// eventRoute serves what changes, as it changes: server-sent events (WHATWG HTML, 9.2), one for each entry of the audit log that
// the caller may see, with its index as id.
func (s *Server) eventRoute(a huma.API) {
	o := op("watch-events", "GET", "/v1/events", "audit", "Watch what changes",
		"A stream of server-sent events, one for each entry of the audit log that you may see; its id is the entry's index. "+
			"A comment comes every 15 seconds. It ends when the server stops: connect again with Last-Event-ID.")
	o.Responses = map[string]*huma.Response{"200": {Description: "OK", Content: map[string]*huma.MediaType{"text/event-stream": {
		Schema: &huma.Schema{Type: huma.TypeString, Description: "Events of the kind entry, whose data is an AuditEntry"}}}}}
	register(a, o, func(ctx context.Context, c access.Caller, in *eventsIn) (*huma.StreamResponse, error) {
		after := int64(-1)
		from := in.LastID
		if from == "" {
			from = in.After
		}
		if from != "" {
			n, err := strconv.ParseInt(from, 10, 64)
			if err != nil || n < -1 {
				e := access.Errorf(access.CodeInvalid, "the events cannot go on after that: it is not the index of an entry")
				e.Field = "after"
				return nil, e.WithHint("give the id of the last event that came")
			}
			after = n
		}
		if !s.streams.open(c.Name, s.opt.Limits.Streams) {
			return nil, access.Errorf(access.CodeRateLimited, "you have %d event streams open already", s.opt.Limits.Streams).
				WithHint("end one of them first")
		}
		ctx, cancel := context.WithCancel(ctx)
		entries, err := s.svc.Watch(ctx, c, after)
		if err != nil {
			cancel()
			s.streams.close(c.Name)
			return nil, err
		}
		return &huma.StreamResponse{Body: func(hc huma.Context) {
			defer s.streams.close(c.Name)
			defer cancel()
			r, w := humago.Unwrap(hc)
			exchangeOf(r.Context()).stream = true
			s.metrics.streams.Inc()
			defer s.metrics.streams.Dec()
			s.stream(ctx, w, entries, s.rechecked(ctx, c))
		}}, nil
	})
	a.OpenAPI().Paths["/v1/events"].Get.Responses["200"].Content["text/event-stream"].Schema.Extensions = map[string]any{
		"x-event-data": a.OpenAPI().Components.Schemas.Schema(reflect.TypeFor[api.AuditEntry](), true, ""),
	}
}

// rechecked returns a channel that is closed when the caller of a long call is not who they were any more: signed out, or with other
// roles. It ends with ctx. What cannot be told now, because the issuer does not answer, changes nothing.
func (s *Server) rechecked(ctx context.Context, c access.Caller) <-chan struct{} {
	over := make(chan struct{})
	again := exchangeOf(ctx).again
	if again == nil {
		return over
	}
	go func() {
		for {
			select {
			case <-ctx.Done():
				return
			case <-wall.After(s.opt.Limits.Recheck):
			}
			now, err := again(ctx)
			if ctx.Err() != nil {
				return
			}
			if access.CodeOf(err) == access.CodeUnavailable {
				continue
			}
			if err != nil || !slices.Equal(now.Roles, c.Roles) || !access.SamePerson(now.Name, c.Name) {
				close(over)
				return
			}
		}
	}()
	return over
}

func (s *Server) stream(ctx context.Context, w http.ResponseWriter, entries <-chan audit.Entry, over <-chan struct{}) {
	rc := http.NewResponseController(w)
	h := w.Header()
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // proxies that gather answers would hold events back
	send := func(text string) bool {
		_ = rc.SetWriteDeadline(wall.Now().Add(writeTime))
		if _, err := io.WriteString(w, text); err != nil {
			return false
		}
		return rc.Flush() == nil
	}
	w.WriteHeader(http.StatusOK)
	if !send("retry: 1000\n: curfew events\n\n") {
		return
	}
	defer rc.SetWriteDeadline(time.Time{}) //nolint:errcheck // the connection may serve other calls
	beat := wall.After(s.opt.Limits.Heartbeat)
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.stopping:
			send(": the server is stopping\n\n")
			return
		case <-over:
			send(": your rights have changed\n\n")
			return
		case <-beat:
			if !send(": still here\n\n") {
				return
			}
			beat = wall.After(s.opt.Limits.Heartbeat)
		case e, more := <-entries:
			if !more {
				return
			}
			b, err := json.Marshal(entry(e)) // no line break is in it: JSON escapes them
			if err != nil {
				s.log.Error("writing an event", "index", e.Index, "error", err)
				return
			}
			if !send(fmt.Sprintf("id: %d\nevent: entry\ndata: %s\n\n", e.Index, b)) {
				return
			}
		}
	}
}

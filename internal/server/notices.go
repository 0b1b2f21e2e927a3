package server

import (
	"context"

	"github.com/danielgtaylor/huma/v2"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/notify"
)

type (
	noticesIn struct {
		Paging
		State   []string `query:"state,explode" doc:"Any of these states"`
		Channel string   `query:"channel" maxLength:"64" doc:"Only of this channel"`
		Subject string   `query:"subject" maxLength:"64" doc:"Only about this request"`
	}
	noticeID struct {
		ID string `path:"id" maxLength:"64" doc:"For example n-0123456789"`
	}
	channelName struct {
		Name string `path:"name" maxLength:"64" doc:"As the configuration calls it"`
	}
)

func notice(n notify.Notice) api.Notice {
	out := api.Notice{ID: n.ID, State: string(n.State), Channel: n.Channel, Kind: string(n.Event.Kind), Subject: n.Subject, Message: n.Event.Message,
		Attempts: n.Attempts, LastError: n.LastError, CreatedAt: utc(n.CreatedAt), SentAt: utc(n.SentAt)}
	if n.State == notify.Waiting {
		out.NextAt = utc(n.NextAt)
	}
	return out
}

func (s *Server) noticeRoutes(a huma.API) {
	register(a, op("list-notices", "GET", "/v1/notices", "notices", "List what channels are told", "Newest first. Those that were delivered are forgotten after a week; dead letters stay."),
		func(ctx context.Context, c access.Caller, in *noticesIn) (*answer[api.List[api.Notice]], error) {
			f := broker.NoticeFilter{Channel: in.Channel, Subject: in.Subject, Page: broker.Page{After: in.After, Limit: in.Limit}}
			var err error
			if f.States, err = states(in.State, []notify.State{notify.Waiting, notify.Sent, notify.Dead}); err != nil {
				return nil, err
			}
			ns, next, err := s.svc.Notices(ctx, c, f)
			if err != nil {
				return nil, err
			}
			return list(ns, next, notice), nil
		})
	register(a, op("get-notice", "GET", "/v1/notices/{id}", "notices", "Show one notice", ""),
		func(ctx context.Context, c access.Caller, in *noticeID) (*answer[api.Notice], error) {
			return reply(notice)(s.svc.Notice(ctx, c, in.ID))
		})
	register(a, op("retry-notice", "POST", "/v1/notices/{id}/retry", "notices", "Have a dead letter tried again", ""),
		func(ctx context.Context, c access.Caller, in *noticeID) (*answer[api.Notice], error) {
			return reply(notice)(s.svc.RetryNotice(ctx, c, in.ID))
		})
	register(a, op("test-channel", "POST", "/v1/channels/{name}/test", "notices", "Send a channel a notice that says nothing but that it works",
		"Answers with the notice, which is delivered like any other: read it again to see what became of it."),
		func(ctx context.Context, c access.Caller, in *channelName) (*answer[api.Notice], error) {
			return reply(notice)(s.svc.TestChannel(ctx, c, in.Name))
		})
}

package server

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/notify"
)

// Slack is what the server needs to take presses of buttons from there.
type Slack struct {
	Verifier   *notify.SlackVerifier
	Responder  *notify.SlackResponder
	Words      *notify.Words
	Identities Identities
	// Current returns a person as they would be if they called now. Whoever could not call cannot press either.
	Current func(ctx context.Context, name string) (access.Caller, error)
}

// Identities tells to whom an identity elsewhere belongs. *broker.Broker implements it.
type Identities interface {
	LinkedPerson(ctx context.Context, i broker.Identity) (string, error)
	NewLinkCode(ctx context.Context, i broker.Identity) (string, error)
}

// slackPath is where Slack sends presses: the app's Interactivity Request URL. It needs no sign-in; each call is signed.
const slackPath = "/v1/slack/actions"

// pressTime bounds what is done for one press, after Slack was answered.
const pressTime = time.Minute

// slackPresses is how many presses are worked on at a time.
const slackPresses = 32

// slackActions takes a press. Slack wants its answer within three seconds, and an approval may take longer: what is signed and
// readable is taken, and who pressed hears of the rest at the URL that came with it.
func (s *Server) slackActions(w http.ResponseWriter, r *http.Request) {
	now, from := wall.Now(), addressKey(exchangeOf(r.Context()).caller.Address)
	refuse := func(reason string, err *access.Error, status int) {
		s.metrics.signIns.WithLabelValues(reason).Inc()
		writeProblem(w, r, err, status)
	}
	slow := access.Errorf(access.CodeRateLimited, "too many calls at once").WithHint("try again in a second")
	if !s.perAddress.allow(from, now) {
		refuse("rate_address", slow, 0)
		return
	}
	if s.failures.spent(from, now) {
		refuse("rate_sign_in", slow, 0)
		return
	}
	body, status, err := s.readRaw(w, r, 512<<10)
	if err != nil {
		refuse("body", err, status)
		return
	}
	if err := s.opt.Slack.Verifier.Verify(r.Header, body, s.clock.Now()); err != nil {
		s.failures.allow(from, now)
		refuse("sign_in", access.Errorf(access.CodeUnauthenticated, "this is not taken for a call from Slack: %v", err).
			WithHint("check signing_secret_file of the channel, and the clock of this server"), 0)
		return
	}
	p, perr := notify.ParseSlackPress(body)
	if perr != nil {
		refuse("body", access.Errorf(access.CodeInvalid, "%v", perr).WithHint("only the buttons of Curfew's own messages work here"), http.StatusBadRequest)
		return
	}
	if p.Other {
		w.WriteHeader(http.StatusOK)
		return
	}
	select {
	case s.presses <- struct{}{}:
	default:
		refuse("rate_person", slow, 0)
		return
	}
	x := exchangeOf(r.Context()) // the call's own ends with its answer
	ctx := context.WithValue(context.WithoutCancel(r.Context()), exchangeKey{}, &exchange{correlation: x.correlation, path: x.path, route: x.route, caller: x.caller})
	ctx, cancel := context.WithTimeout(ctx, pressTime)
	s.background.Go(func() {
		defer func() { <-s.presses }()
		defer cancel()
		go func() {
			select {
			case <-s.stopping:
				cancel() // what was begun is finished all the same; only the words may be missing
			case <-ctx.Done():
			}
		}()
		s.press(ctx, p)
	})
	w.WriteHeader(http.StatusOK)
}

// readRaw takes in a body of any type, within limits of size and time.
func (s *Server) readRaw(w http.ResponseWriter, r *http.Request, most int64) ([]byte, int, *access.Error) {
	rc := http.NewResponseController(w)
	_ = rc.SetReadDeadline(wall.Now().Add(s.opt.Limits.BodyTime)) // a connection without deadlines is a test's
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if err == nil {
		_ = rc.SetReadDeadline(time.Time{})
		return body, 0, nil
	}
	w.Header().Set("Connection", "close")
	var large *http.MaxBytesError
	switch {
	case errors.As(err, &large):
		return nil, http.StatusRequestEntityTooLarge, access.Errorf(access.CodeInvalid, "the body is larger than %d bytes", most)
	case errors.Is(err, os.ErrDeadlineExceeded):
		return nil, http.StatusRequestTimeout, access.Errorf(access.CodeInvalid, "the body did not arrive within %s", s.opt.Limits.BodyTime).Wrap(err)
	}
	return nil, http.StatusBadRequest, access.Errorf(access.CodeInvalid, "the body could not be read").Wrap(err)
}

// press does what somebody pressed for, as the person that they are here, and tells them alone what became of it.
func (s *Server) press(ctx context.Context, p notify.SlackPress) {
	words, again := s.decideFor(ctx, p)
	if again != nil {
		if err := s.opt.Slack.Responder.Respond(ctx, p.Answer, *again); err != nil {
			s.log.WarnContext(ctx, "showing a request again in Slack", "request", p.Value.Request, "error", err)
		}
	}
	if err := s.opt.Slack.Responder.Respond(ctx, p.Answer, notify.SlackResponse{Type: "ephemeral", Text: notify.SlackEscape(words)}); err != nil {
		s.log.WarnContext(ctx, "answering a press in Slack", "request", p.Value.Request, "error", err)
	}
}

// decideFor returns the words for whoever pressed and, if the request has changed since it was shown, the request as it is.
func (s *Server) decideFor(ctx context.Context, p notify.SlackPress) (words string, again *notify.SlackResponse) {
	defer func() {
		if v := recover(); v != nil {
			s.metrics.panics.Inc()
			s.log.ErrorContext(ctx, "panic while working on a press", "panic", v)
			words, again = s.pressError(ctx, errors.New("panic")), nil
		}
	}()
	id := broker.Identity{Kind: "slack", Team: p.Team, User: p.User, Name: p.Name}
	person, err := s.opt.Slack.Identities.LinkedPerson(ctx, id)
	if err != nil {
		return s.pressError(ctx, err), nil
	}
	if person == "" {
		code, err := s.opt.Slack.Identities.NewLinkCode(ctx, id)
		if err != nil {
			return s.pressError(ctx, err), nil
		}
		return "Curfew does not know who you are. Sign in on the command line and run:\ncurfew link slack " + code +
			"\nThe code works once, for ten minutes. Use it only if you pressed the button yourself; then press again.", nil
	}
	c, err := s.opt.Slack.Current(ctx, person)
	if err != nil {
		return s.pressError(ctx, err), nil
	}
	c.Via = "slack"
	var r access.Request
	if p.Decision == access.Approve {
		r, err = s.svc.Approve(ctx, c, p.Value.Request, broker.ReviewInput{Digest: p.Value.Digest, Duration: p.Value.For, Via: "slack"})
	} else {
		r, err = s.svc.Deny(ctx, c, p.Value.Request, "")
	}
	s.log.LogAttrs(ctx, slog.LevelInfo, "press", slog.String("via", "slack"), slog.String("caller", c.Name), slog.String("decision", string(p.Decision)),
		slog.String("request", string(p.Value.Request)), slog.String("code", string(access.CodeOf(err))))
	if err != nil {
		words = s.pressError(ctx, err)
		if access.CodeOf(err) == access.CodePlanChanged {
			if now, rerr := s.svc.Request(ctx, c, p.Value.Request); rerr == nil && now.State == access.Pending {
				m := notify.SlackRequest(s.opt.Slack.Words, now)
				again = &m
			}
		}
		return words, again
	}
	switch {
	case r.State == access.Denied:
		return "You denied " + string(r.ID) + " of " + r.Requester + ".", nil
	case r.State == access.Approved:
		return "You approved " + string(r.ID) + " of " + r.Requester + " for " + access.Duration(r.Terms.Duration).String() + ".", nil
	}
	return "You approved " + string(r.ID) + " of " + r.Requester + ". It waits for others as well.", nil
}

// pressError puts an error into words that whoever pressed may read.
func (s *Server) pressError(ctx context.Context, err error) string {
	p := problem(ctx, err)
	return strings.TrimSuffix("Nothing was done: "+p.Detail+"\n"+p.Hint, "\n")
}

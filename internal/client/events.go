package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"io"
	"iter"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
)

// silence is how long a stream may say nothing before it is taken for dead: the server sends a comment every 15 seconds.
const silence = 45 * time.Second

// retryMax bounds the pause between two attempts to reach an event stream again.
const retryMax = 5 * time.Second

// Events yields entries of the audit log as they are written, from the one after index after on: pass -1 for all there are, and
// the Checkpoint's size less one for what happens from now on. It connects again when the stream ends or breaks, and yields
// nothing twice. It ends with ctx, or with an error that trying again will not cure.
func (c *Client) Events(ctx context.Context, after int64) iter.Seq2[api.AuditEntry, error] {
	return func(yield func(api.AuditEntry, error) bool) {
		failures := 0
		for ctx.Err() == nil {
			goOn, n, err := c.stream(ctx, &after, yield)
			if !goOn {
				return
			}
			if n > 0 {
				failures = 0
			}
			failures++
			if err != nil {
				switch access.CodeOf(err) {
				case access.CodeUnavailable, access.CodeRateLimited, access.CodeTimeout:
				default:
					yield(api.AuditEntry{}, err)
					return
				}
				if failures > 20 { // about a minute and a half
					yield(api.AuditEntry{}, err)
					return
				}
			}
			select {
			case <-ctx.Done():
			case <-c.clock.After(min(pause<<min(failures-1, 6), retryMax)):
			}
		}
	}
}

// stream reads one connection to its end. It tells whether to go on, and how many entries came.
func (c *Client) stream(ctx context.Context, after *int64, yield func(api.AuditEntry, error) bool) (bool, int, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.base.String()+"/v1/events", nil)
	if err != nil {
		return true, 0, err
	}
	req.Header.Set("Accept", "text/event-stream")
	req.Header.Set("Last-Event-ID", strconv.FormatInt(*after, 10))
	c.sign(req)
	res, err := c.http.Do(req)
	if err != nil {
		if ctx.Err() != nil {
			return true, 0, nil
		}
		return true, 0, c.unreachable(err)
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		return true, 0, c.refusal(res, body)
	}
	watchdog := time.AfterFunc(silence, cancel)
	defer watchdog.Stop()
	n := 0
	err = readEvents(res.Body, func() { watchdog.Reset(silence) }, func(id, data string) (bool, error) {
		var e api.AuditEntry
		if err := json.Unmarshal([]byte(data), &e); err != nil {
			return false, access.Errorf(access.CodeInternal, "an event of %s is not understood", c.base).Wrap(err)
		}
		if e.Index <= *after {
			return true, nil
		}
		*after, n = e.Index, n+1
		return yield(e, nil), nil
	})
	switch {
	case errors.Is(err, errStopped):
		return false, n, nil
	case err == nil || ctx.Err() != nil:
		return true, n, nil
	case access.CodeOf(err) == access.CodeInternal && errors.As(err, new(*access.Error)):
		return true, n, err
	}
	return true, n, access.Errorf(access.CodeUnavailable, "the event stream of %s broke off", c.base).Wrap(err)
}

var errStopped = errors.New("stopped by the caller")

// readEvents reads a stream of server-sent events (WHATWG HTML, 9.2). A line that is longer than 1 MiB ends it.
func readEvents(r io.Reader, alive func(), event func(id, data string) (bool, error)) error {
	sc := bufio.NewScanner(r)
	sc.Buffer(make([]byte, 0, 16<<10), 1<<20)
	var id string
	var data []string
	for sc.Scan() {
		alive()
		line := sc.Text()
		if line == "" {
			if len(data) > 0 {
				goOn, err := event(id, strings.Join(data, "\n"))
				if err != nil {
					return err
				}
				if !goOn {
					return errStopped
				}
			}
			data = nil
			continue
		}
		name, value, _ := strings.Cut(line, ":")
		value = strings.TrimPrefix(value, " ")
		switch name {
		case "id":
			id = value
		case "data":
			data = append(data, value)
		}
	}
	return sc.Err()
}

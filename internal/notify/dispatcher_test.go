package notify_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
	"github.com/curfew-jit/curfew/internal/store/storetest"
)

// outbox keeps notices in a real store, and fails on demand.
type outbox struct {
	t     testing.TB
	store broker.Store

	mu      sync.Mutex
	fail    error // of Settle
	largest int   // most notices in one transaction
}

func newOutbox(t testing.TB) *outbox {
	t.Helper()
	s, err := sqlite.Open(t.Context(), sqlite.Options{Path: sqlite.Memory})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return &outbox{t: t, store: s}
}

func (o *outbox) Due(ctx context.Context, channel string, limit int) (out []notify.Notice, err error) {
	err = o.store.View(ctx, func(tx broker.Tx) (err error) {
		out, err = tx.DueNotices(channel, clock.System{}.Now(), limit)
		return err
	})
	return out, err
}

func (o *outbox) Counts(ctx context.Context) (out []notify.Count, err error) {
	err = o.store.View(ctx, func(tx broker.Tx) (err error) { out, err = tx.NoticeCounts(); return err })
	return out, err
}

func (o *outbox) Settle(ctx context.Context, ns []notify.Notice) error {
	o.mu.Lock()
	fail := o.fail
	o.largest = max(o.largest, len(ns))
	o.mu.Unlock()
	if fail != nil {
		return fail
	}
	return o.store.Update(context.WithoutCancel(ctx), func(tx broker.Tx) error {
		for _, n := range ns {
			if err := tx.UpdateNotice(n); err != nil {
				return err
			}
		}
		return nil
	})
}

func (o *outbox) setFail(err error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.fail = err
}

// put queues notices, written "channel subject id".
func (o *outbox) put(notices ...string) {
	o.t.Helper()
	now := clock.System{}.Now()
	err := o.store.Update(context.Background(), func(tx broker.Tx) error {
		for _, s := range notices {
			f := strings.Fields(s)
			n := storetest.Notice(f[2], f[0], f[1], now)
			n.CreatedAt = now
			if err := tx.InsertNotice(n); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		o.t.Fatal(err)
	}
}

func (o *outbox) get(id string) (n notify.Notice) {
	o.t.Helper()
	if err := o.store.View(context.Background(), func(tx broker.Tx) (err error) { n, err = tx.Notice(id); return err }); err != nil {
		o.t.Fatal(err)
	}
	return n
}

// recorder is a channel that notes what it is sent, and answers as it is told.
type recorder struct {
	name   string
	answer func(ctx context.Context, n notify.Notice) error // nil: takes everything

	mu    sync.Mutex
	tried []string // ids, as they came
	taken []string
	at    []time.Time
}

func (r *recorder) Name() string { return r.name }

func (r *recorder) Send(ctx context.Context, n notify.Notice) (string, error) {
	r.mu.Lock()
	r.tried, r.at = append(r.tried, n.ID), append(r.at, clock.System{}.Now())
	r.mu.Unlock()
	if r.answer != nil {
		if err := r.answer(ctx, n); err != nil {
			return "", err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.taken = append(r.taken, n.ID)
	return "", nil
}

func (r *recorder) got() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.taken)
}

func (r *recorder) attempts() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.tried)
}

// run starts a dispatcher and returns what wakes it and what ends it.
func run(t *testing.T, o *outbox, lim notify.Limits, channels ...notify.Channel) (wake, stop func()) {
	t.Helper()
	d, err := notify.New(notify.Config{Outbox: o, Channels: channels, Clock: clock.System{}, Limits: lim})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); d.Run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(stop)
	return d.Wake, stop
}

func same(t *testing.T, what string, got, want any) {
	t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

func hang(ctx context.Context, _ notify.Notice) error {
	<-ctx.Done()
	return ctx.Err()
}

func down(context.Context, notify.Notice) error { return &notify.Failure{Message: "it is down"} }

func TestNoticesOfARequestKeepTheirOrder(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(t)
		left := 2
		var mu sync.Mutex
		ch := &recorder{name: "ops", answer: func(_ context.Context, n notify.Notice) error {
			mu.Lock()
			defer mu.Unlock()
			if n.ID == "n-1" && left > 0 {
				left--
				return &notify.Failure{Message: "not now"}
			}
			return nil
		}}
		o.put("ops r-1 n-1", "ops r-1 n-2", "ops r-1 n-3", "ops r-2 n-4", "ops r-2 n-5")
		run(t, o, notify.Limits{}, ch)
		time.Sleep(time.Second)
		same(t, "another request does not wait", ch.got(), []string{"n-4", "n-5"})
		time.Sleep(time.Minute)
		same(t, "in order, after the failures", ch.got(), []string{"n-4", "n-5", "n-1", "n-2", "n-3"})
		n := o.get("n-1")
		if n.State != notify.Sent || n.Attempts != 3 || n.SentAt.IsZero() || n.LastError != "" {
			t.Errorf("n-1 is %+v", n)
		}
	})
}

func TestATargetThatHangsHoldsUpNoOther(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(t)
		var cured atomic.Bool
		sick, well := &recorder{name: "sick", answer: func(ctx context.Context, n notify.Notice) error {
			if cured.Load() {
				return nil
			}
			return hang(ctx, n)
		}}, &recorder{name: "well"}
		var want []string
		for i := range 200 {
			o.put(fmt.Sprintf("sick r-%d n-s%d", i, i), fmt.Sprintf("well r-%d n-w%d", i, i))
			want = append(want, fmt.Sprintf("n-w%d", i))
		}
		run(t, o, notify.Limits{}, sick, well)
		time.Sleep(10 * time.Second)
		got := well.got()
		slices.Sort(got)
		slices.Sort(want)
		same(t, "the other channel", got, want)
		time.Sleep(10 * time.Minute)
		if n := sick.attempts(); n < 8 || n > 25 {
			t.Errorf("the sick one was tried %d times in ten minutes: want the first wave and some probes", n)
		}
		cured.Store(true)
		time.Sleep(15 * time.Minute)
		if n := len(sick.got()); n != 200 {
			t.Errorf("once it is well again it got %d of 200", n)
		}
		if n := o.get("n-s0"); n.State != notify.Sent {
			t.Errorf("n-s0 is %+v", n)
		}
	})
}

func TestAtLeastOnceAcrossACrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(t)
		o.put("ops r-1 n-1", "ops r-1 n-2", "mail r-1 n-3")
		o.setFail(errors.New("the process dies before it can write"))
		ops, mail := &recorder{name: "ops"}, &recorder{name: "mail"}
		_, stop := run(t, o, notify.Limits{}, ops, mail)
		time.Sleep(time.Minute)
		same(t, "sent once while it cannot be written down", append(ops.got(), mail.got()...), []string{"n-1", "n-3"})
		stop()
		same(t, "and waits as before", o.get("n-1").State, notify.Waiting)
		o.setFail(nil)
		run(t, o, notify.Limits{}, ops, mail)
		time.Sleep(time.Minute)
		same(t, "the same id again, and then the next", ops.got(), []string{"n-1", "n-1", "n-2"})
		same(t, "the other channel", mail.got(), []string{"n-3", "n-3"})
		time.Sleep(time.Hour)
		same(t, "never more", ops.attempts()+mail.attempts(), 5)
	})
}

func TestAStoreThatIsBusyDoesNotMakeItSendAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(t)
		o.put("ops r-1 n-1")
		o.setFail(errors.New("busy"))
		ops := &recorder{name: "ops"}
		run(t, o, notify.Limits{}, ops)
		time.Sleep(10 * time.Minute)
		o.setFail(nil)
		time.Sleep(10 * time.Second)
		same(t, "sent", ops.got(), []string{"n-1"})
		same(t, "state", o.get("n-1").State, notify.Sent)
	})
}

func TestPausesGrowAndRetryAfterIsHonoured(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(t)
		o.put("slow r-1 n-1", "ops r-1 n-2")
		first := true
		slow := &recorder{name: "slow", answer: func(context.Context, notify.Notice) error {
			if first {
				first = false
				return &notify.Failure{Message: "it answered 429", After: 5 * time.Minute}
			}
			return nil
		}}
		// This fails for one notice alone, so that it is not the circuit that is seen.
		ops := &recorder{name: "ops", answer: func(context.Context, notify.Notice) error { return &notify.Failure{Message: "not now", Mine: true} }}
		run(t, o, notify.Limits{}, slow, ops)
		time.Sleep(10 * time.Minute)
		if gap := slow.at[1].Sub(slow.at[0]); gap < 5*time.Minute || gap > 5*time.Minute+2*time.Second {
			t.Errorf("after 429 with Retry-After: 300 it came again after %s", gap)
		}
		want := 5 * time.Second
		for i := range len(ops.at) - 1 {
			gap := ops.at[i+1].Sub(ops.at[i])
			if gap < want*3/4 || gap > want*5/4+time.Second {
				t.Errorf("pause %d is %s, want %s give or take a quarter", i+1, gap, want)
			}
			want = min(2*want, 15*time.Minute)
		}
		if len(ops.at) < 5 {
			t.Errorf("only %d attempts", len(ops.at))
		}
	})
}

func TestDeadLetters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(t)
		o.put("ops r-1 n-1", "ops r-1 n-2", "ops r-2 n-3", "ops r-3 n-4", "ops r-4 n-5")
		ops := &recorder{name: "ops", answer: func(_ context.Context, n notify.Notice) error {
			switch n.ID {
			case "n-1":
				return &notify.Failure{Message: "it answered 410 Gone", Final: true}
			case "n-3":
				return &notify.Failure{Message: "not now", Mine: true}
			case "n-4":
				panic("a fault of ours")
			case "n-5":
				return errors.New("something with a secret in it")
			}
			return nil
		}}
		run(t, o, notify.Limits{}, ops)
		time.Sleep(time.Minute)
		same(t, "what cannot be delivered is given up", o.get("n-1").State, notify.Dead)
		same(t, "why", o.get("n-1").LastError, "it answered 410 Gone")
		same(t, "the next of its request goes on", ops.got(), []string{"n-2"})
		same(t, "a panic is a dead letter", o.get("n-4").State, notify.Dead)
		if n := o.get("n-5"); n.State != notify.Waiting || strings.Contains(n.LastError, "secret") {
			t.Errorf("an error that nobody has put into words: %+v", n)
		}
		same(t, "still tried", o.get("n-3").State, notify.Waiting)
		time.Sleep(25 * time.Hour)
		same(t, "not for ever", o.get("n-3").State, notify.Dead)
		tries := ops.attempts()
		time.Sleep(25 * time.Hour)
		same(t, "and then never again", ops.attempts(), tries)
	})
}

func TestWhatWaitsBehindADeadChannelIsGivenUpToo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(t)
		ops := &recorder{name: "ops", answer: down}
		for i := range 100 {
			o.put(fmt.Sprintf("ops r-%d n-%d", i, i))
		}
		run(t, o, notify.Limits{}, ops)
		time.Sleep(23 * time.Hour)
		o.put("ops r-late n-late")
		c, _ := o.Counts(t.Context())
		same(t, "all wait", fmt.Sprint(c[0].Waiting, c[0].Dead), "101 0")
		time.Sleep(2 * time.Hour)
		c, _ = o.Counts(t.Context())
		same(t, "those that are too old do not", fmt.Sprint(c[0].Waiting, c[0].Dead), "1 100")
		if n := o.get("n-99"); n.LastError == "" {
			t.Errorf("nobody hears why: %+v", n)
		}
		if n := ops.attempts(); n > 1000 {
			t.Errorf("a channel that is down was tried %d times in a day", n)
		}
	})
}

func TestStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(t)
		o.put("slow r-1 n-1", "stuck r-1 n-2")
		slow := &recorder{name: "slow", answer: func(ctx context.Context, _ notify.Notice) error {
			select {
			case <-time.After(3 * time.Second):
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}}
		stuck := &recorder{name: "stuck", answer: hang}
		_, stop := run(t, o, notify.Limits{Timeout: time.Hour}, slow, stuck)
		time.Sleep(time.Second)
		began := time.Now()
		stop()
		if took := time.Since(began); took > 6*time.Second {
			t.Errorf("stopping took %s", took)
		}
		same(t, "what was under way and ended", o.get("n-1").State, notify.Sent)
		if n := o.get("n-2"); n.State != notify.Waiting || n.Attempts != 0 {
			t.Errorf("what was cut off is as it was: %+v", n)
		}
	})
}

func TestWakingAndSmallTransactions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(t)
		ops := &recorder{name: "ops"}
		wake, _ := run(t, o, notify.Limits{}, ops)
		time.Sleep(time.Second)
		o.put("ops r-1 n-1")
		wake()
		synctest.Wait()
		same(t, "at once when woken", ops.got(), []string{"n-1"})
		o.put("ops r-1 n-2")
		time.Sleep(16 * time.Second)
		same(t, "and soon when nobody wakes it", ops.got(), []string{"n-1", "n-2"})
		for i := range 500 {
			o.put(fmt.Sprintf("ops s-%d m-%d", i, i))
		}
		wake()
		time.Sleep(time.Minute)
		if len(ops.got()) != 502 || o.largest > 25 {
			t.Errorf("%d sent, at most %d in one transaction: want 502, and no more than 25", len(ops.got()), o.largest)
		}
	})
}

func TestNoticesForAChannelThatIsNotThereAnyMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := newOutbox(t)
		for i := range 150 {
			o.put(fmt.Sprintf("old r-%d n-%d", i/2, i))
		}
		o.put("ops r-1 m-1")
		ops := &recorder{name: "ops"}
		run(t, o, notify.Limits{}, ops)
		time.Sleep(time.Minute)
		c, _ := o.Counts(t.Context())
		if len(c) != 2 || c[0].Dead != 150 || c[0].Waiting != 0 || c[1].Sent != 1 {
			t.Errorf("counts %+v", c)
		}
		same(t, "why", o.get("n-149").LastError, "the configuration names no such channel any more")
	})
}

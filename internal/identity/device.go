package identity

import (
	"context"
	"errors"
	"net/netip"
	"net/url"
	"time"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/broker"
)

// device is a sign-in by device code (RFC 8628), kept under the hash of its handle.
type device struct {
	Code     []byte    `json:"code"` // sealed
	Interval int       `json:"interval"`
	EndsAt   time.Time `json:"ends_at"`
}

// poll is when a device's sign-in may be asked about again. It lives in memory: after a restart the issuer counts for itself.
type poll struct {
	next     time.Time
	interval time.Duration
	ends     time.Time
	busy     bool
}

// maxDevices bounds sign-ins by device code that are under way.
const maxDevices = 10_000

// Device begins a sign-in that the person completes elsewhere.
func (m *Manager) Device(ctx context.Context) (api.DeviceStart, error) {
	if err := m.device(); err != nil {
		return api.DeviceStart{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeTime)
	defer cancel()
	d, _, err := m.provider.get(ctx)
	if err != nil {
		m.acc.NoteIssuer(err)
		return api.DeviceStart{}, err
	}
	if d.Device == "" {
		return api.DeviceStart{}, access.Errorf(access.CodeNotFound, "the issuer knows no device codes").WithHint("sign in with a browser: curfew login")
	}
	var a struct {
		Code        string  `json:"device_code"`
		User        string  `json:"user_code"`
		URI         string  `json:"verification_uri"`
		URL         string  `json:"verification_url"` // what some issuers call it
		URIComplete string  `json:"verification_uri_complete"`
		ExpiresIn   float64 `json:"expires_in"`
		Interval    float64 `json:"interval"`
	}
	if err := m.post(ctx, d, d.Device, url.Values{"scope": {m.scope()}}, &a); err != nil {
		if isDown(err) {
			m.acc.NoteIssuer(err)
		}
		return api.DeviceStart{}, refusal(err)
	}
	if a.URI == "" {
		a.URI = a.URL
	}
	if a.Code == "" || a.User == "" || CheckIssuerURL(a.URI) != nil || a.ExpiresIn <= 0 || a.ExpiresIn > 1e6 || a.Interval < 0 || a.Interval > 3600 {
		return api.DeviceStart{}, down(m.provider.name(), errors.New("its answer about a device code is not whole"))
	}
	if a.URIComplete != "" && CheckIssuerURL(a.URIComplete) != nil {
		a.URIComplete = ""
	}
	if a.Interval == 0 {
		a.Interval = 5
	}
	handle := broker.NewSecret("")
	hash := broker.HashSecret(handle)
	now := m.acc.Now()
	rec := device{Code: m.seal.close(a.Code, "device:"+hash), Interval: int(a.Interval), EndsAt: now.Add(min(time.Duration(a.ExpiresIn)*time.Second, 30*time.Minute))}
	if _, err := m.turn(hash, rec, now); err != nil {
		return api.DeviceStart{}, err
	}
	m.settle(hash, now, rec.Interval, false)
	if err := m.acc.KeepOnce(ctx, broker.RecordDevice, hash, rec.EndsAt, rec); err != nil {
		return api.DeviceStart{}, err
	}
	return api.DeviceStart{Handle: handle, UserCode: a.User, VerificationURI: a.URI, VerificationURIComplete: a.URIComplete, Interval: int(a.Interval),
		ExpiresIn: int(rec.EndsAt.Sub(now) / time.Second)}, nil
}

func (m *Manager) device() error {
	if err := m.noIssuer(); err != nil {
		return err
	}
	if m.issuer.NoDevice {
		return access.Errorf(access.CodeDenied, "device codes are switched off at this server").WithHint("sign in with a browser: curfew login")
	}
	return nil
}

// turn tells whether a device's sign-in may be asked about now, and if not how long to wait. Who gets a turn gives it back with settle.
func (m *Manager) turn(hash string, rec device, now time.Time) (wait time.Duration, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.polls[hash]
	if p == nil {
		if len(m.polls) >= maxDevices {
			for k, o := range m.polls {
				if now.After(o.ends) {
					delete(m.polls, k)
				}
			}
			if len(m.polls) >= maxDevices {
				return 0, access.Errorf(access.CodeRateLimited, "too many sign-ins by device code are under way").WithHint("try again in a minute, or sign in with a browser")
			}
		}
		p = &poll{interval: time.Duration(rec.Interval) * time.Second, ends: rec.EndsAt}
		m.polls[hash] = p
	}
	if p.busy || now.Before(p.next) {
		return max(p.next.Sub(now), time.Second), nil
	}
	p.busy = true
	return 0, nil
}

func (m *Manager) settle(hash string, now time.Time, slower int, done bool) (interval int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	p := m.polls[hash]
	if p == nil {
		return 0
	}
	if done {
		delete(m.polls, hash)
		return 0
	}
	p.busy = false
	p.interval = max(p.interval, time.Duration(slower)*time.Second)
	p.next = now.Add(p.interval)
	return int(p.interval / time.Second)
}

// DeviceToken asks the issuer whether the person is done, not more often than it wants to be asked.
func (m *Manager) DeviceToken(ctx context.Context, from netip.Addr, handle string) (api.DeviceToken, error) {
	if err := m.device(); err != nil {
		return api.DeviceToken{}, err
	}
	hash := broker.HashSecret(handle)
	var rec device
	unknown := access.Errorf(access.CodeUnauthenticated, "this sign-in is not known here: it took too long, or was finished before").
		WithHint("begin again with: curfew login --device")
	if err := m.acc.LookAt(ctx, broker.RecordDevice, hash, &rec); access.CodeOf(err) == access.CodeNotFound {
		return api.DeviceToken{}, unknown
	} else if err != nil {
		return api.DeviceToken{}, err
	}
	wait, err := m.turn(hash, rec, m.acc.Now())
	if err != nil {
		return api.DeviceToken{}, err
	}
	if wait > 0 {
		return api.DeviceToken{State: "pending", Interval: int((wait + time.Second - 1) / time.Second)}, nil
	}
	code, err := m.seal.open(rec.Code, "device:"+hash)
	if err != nil {
		m.settle(hash, m.acc.Now(), 0, true)
		return api.DeviceToken{}, unknown
	}
	// Once the issuer has given the tokens it gives them to nobody else: this goes on although the caller may not.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exchangeTime)
	defer cancel()
	p, t, err := m.ask(ctx, url.Values{"grant_type": {"urn:ietf:params:oauth:grant-type:device_code"}, "device_code": {code}}, "")
	if isDown(err) && t.ID == "" { // it may be back before the code is over
		m.settle(hash, m.acc.Now(), 0, false)
		m.acc.NoteIssuer(err)
		return api.DeviceToken{}, err
	}
	var oe *oauthError
	if errors.As(err, &oe) && (oe.Code == "authorization_pending" || oe.Code == "slow_down") {
		slower := 0
		if oe.Code == "slow_down" {
			slower = rec.Interval + 5
			m.mu.Lock()
			if q := m.polls[hash]; q != nil {
				slower = int(q.interval/time.Second) + 5
			}
			m.mu.Unlock()
		}
		every := m.settle(hash, m.acc.Now(), slower, false)
		return api.DeviceToken{State: "pending", Interval: every}, nil
	}
	m.settle(hash, m.acc.Now(), 0, true)
	if terr := m.acc.TakeOnce(ctx, broker.RecordDevice, hash, &rec); terr != nil {
		return api.DeviceToken{}, unknown
	}
	err = refusal(err)
	if err == nil {
		err = m.admit(p)
	}
	if err != nil {
		m.refused(ctx, p.Name, from, err)
		return api.DeviceToken{}, err
	}
	m.noteUp()
	s, err := m.signedIn(m.begin(ctx, p, t.Refresh, "device", from))
	if err != nil {
		m.refused(ctx, p.Name, from, err)
		return api.DeviceToken{}, err
	}
	return api.DeviceToken{State: "signed_in", Session: &s}, nil
}

package cli

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/client"
	"github.com/curfew-jit/curfew/internal/credential"
)

// LoginResult says who is signed in where. The token is not among it: it is kept, and shown nowhere.
type LoginResult struct {
	Server    string    `json:"server"`
	Name      string    `json:"name"`
	Roles     []string  `json:"roles"`
	Groups    []string  `json:"groups"`
	ExpiresAt time.Time `json:"expires_at,omitzero"`
	Kept      string    `json:"kept"` // keyring or file
	File      string    `json:"file"` // with the token, or without it where the keyring has it
}

func (c *cli) loginCmd() *cobra.Command {
	var device, noBrowser bool
	var timeout string
	cmd := &cobra.Command{
		Use: "login", Short: "Sign in to the server through the issuer that it trusts",
		Long: `Signs in with the browser: it is sent to the issuer of the server, and comes back to a port on this machine's loopback that takes the
answer once. Where no browser is to be had, over SSH, or with --device, a code is shown instead, to be entered in a browser anywhere.

The session's token is kept for this server alone: in the system's keyring (CURFEW_KEYRING=off does without), or else in a file of
your configuration directory that nobody else can read. A token in --token-file or CURFEW_TOKEN goes before it.`,
		Example: "curfew login --server https://curfew.example.com\ncurfew login --device",
		Args:    need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			wait, err := access.ParseDuration(timeout)
			if err != nil || wait <= 0 {
				return badInput("timeout", "the time to wait %q is not a duration", timeout).WithHint("write it like 5m")
			}
			if device && noBrowser {
				return badInput("no-browser", "--device opens no browser anyhow: leave --no-browser out")
			}
			if c.as != "" || c.tokenFile != "" {
				return badInput("as", "--as and --token-file say already who you are: leave them out to sign in")
			}
			if c.Sessions == nil {
				return access.Errorf(access.CodeUnavailable, "there is no place to keep a session: the user has no configuration directory").WithHint("set HOME or XDG_CONFIG_HOME")
			}
			return c.runLogin(cmd.Context(), device, noBrowser, wait)
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.BoolVar(&device, "device", false, "show a code to be entered in a browser on any machine")
	f.BoolVar(&noBrowser, "no-browser", false, "only show the address that a browser on this machine should open")
	f.StringVar(&timeout, "timeout", "10m", "`DURATION` to wait for you")
	return cmd
}

func (c *cli) runLogin(ctx context.Context, device, noBrowser bool, wait time.Duration) error {
	cl, err := c.anonymous("")
	if err != nil {
		return err
	}
	m, err := cl.LoginMethods(ctx)
	if err != nil {
		return err
	}
	if !m.Browser && !m.Device {
		return access.Errorf(access.CodeNotFound, "nobody signs in through an issuer at %s", cl.Server()).
			WithHint("use the token that an admin gave you: --token-file FILE or CURFEW_TOKEN")
	}
	if !device && !noBrowser && m.Device {
		switch {
		case c.overSSH():
			c.say("over SSH no browser here is in front of you: signing in with a code")
			device = true
		case c.Open == nil || len(c.browsers("https://example.com")) == 0:
			c.say("there is no browser here: signing in with a code")
			device = true
		}
	}
	if device && !m.Device {
		return access.Errorf(access.CodeNotFound, "%s does not let anybody sign in with a code", cl.Server()).WithHint("sign in with a browser on this machine: curfew login")
	}
	if !device && !m.Browser {
		device = true
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	over := access.Errorf(access.CodeTimeout, "nobody has signed in within %s", access.Duration(wait)).WithHint("try again with: curfew login")
	go func() {
		select {
		case <-c.Clock.After(wait):
			cancel(over)
		case <-ctx.Done():
		}
	}()
	var got api.SignedIn
	if device {
		got, err = c.loginByDevice(ctx, cl)
	} else {
		got, err = c.loginByBrowser(ctx, cl, !noBrowser)
	}
	if cause := context.Cause(ctx); err != nil && cause != nil && errors.Is(cause, over) {
		return over
	}
	if err != nil {
		return err
	}
	return c.keepLogin(context.WithoutCancel(ctx), cl, got) // the code is used: what it gave is not thrown away
}

// loginByBrowser sends a browser to the server's issuer and waits for it to come back.
func (c *cli) loginByBrowser(ctx context.Context, cl *client.Client, open bool) (api.SignedIn, error) {
	state, verifier := unguessable(), unguessable()
	at, err := listenForCode(ctx, state)
	if err != nil {
		return api.SignedIn{}, err
	}
	defer at.close()
	sum := sha256.Sum256([]byte(verifier))
	start, err := cl.StartLogin(ctx, api.LoginStartInput{RedirectURI: at.URL, Challenge: base64.RawURLEncoding.EncodeToString(sum[:]), State: state})
	if err != nil {
		return api.SignedIn{}, err
	}
	if err := webPage(start.URL); err != nil {
		return api.SignedIn{}, err
	}
	switch {
	case open && c.browse(start.URL):
		c.say("a browser opens; if it does not, open this address in one on this machine:\n\n  %s\n", start.URL)
	default:
		c.say("open this address in a browser on this machine:\n\n  %s\n", start.URL)
	}
	c.say("waiting for you to sign in there; Ctrl-C gives up")
	select {
	case <-ctx.Done():
		return api.SignedIn{}, ctx.Err()
	case a := <-at.landed:
		if a.err != nil {
			return api.SignedIn{}, a.err
		}
		return cl.FinishLogin(ctx, api.LoginTokenInput{Code: a.code, Verifier: verifier})
	}
}

// loginByDevice shows a code and asks the server, no more often than it wants to be asked, whether somebody has entered it.
func (c *cli) loginByDevice(ctx context.Context, cl *client.Client) (api.SignedIn, error) {
	d, err := cl.StartDevice(ctx)
	if err != nil {
		return api.SignedIn{}, err
	}
	if err := webPage(d.VerificationURI); err != nil {
		return api.SignedIn{}, err
	}
	c.say("open this address in a browser, on any machine:\n\n  %s\n\nand enter the code:\n\n  %s\n", d.VerificationURI, d.UserCode)
	if d.VerificationURIComplete != "" && webPage(d.VerificationURIComplete) == nil {
		c.say("or both in one: %s\n", d.VerificationURIComplete)
	}
	c.say("waiting for you to sign in there; Ctrl-C gives up")
	pause := max(time.Duration(d.Interval)*time.Second, time.Second)
	end := c.now().Add(time.Duration(d.ExpiresIn) * time.Second)
	for {
		select {
		case <-ctx.Done():
			return api.SignedIn{}, ctx.Err()
		case <-c.Clock.After(pause):
		}
		got, waits, err := cl.DeviceLogin(ctx, d.Handle)
		switch {
		case access.CodeOf(err) == access.CodeRateLimited:
			pause += 5 * time.Second
		case access.CodeOf(err) == access.CodeUnavailable && ctx.Err() == nil: // asked again: the code is still good
		case err != nil:
			return api.SignedIn{}, err
		case waits == 0:
			return got, nil
		default:
			pause = max(pause, waits)
		}
		if d.ExpiresIn > 0 && !c.now().Before(end) {
			return api.SignedIn{}, access.Errorf(access.CodeTimeout, "nobody has entered the code in time").WithHint("begin again with: curfew login --device")
		}
	}
}

// unguessable is 256 bits in 43 characters that stand in a URL as they are: a PKCE verifier, or a state.
func unguessable() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return base64.RawURLEncoding.EncodeToString(b[:])
}

func (c *cli) keepLogin(ctx context.Context, cl *client.Client, got api.SignedIn) error {
	if got.Token == "" || strings.ContainsFunc(got.Token, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return access.Errorf(access.CodeInternal, "%s gave no usable session", cl.Server())
	}
	old, _ := c.Sessions.Get(ctx, cl.Server()) // one that cannot be read cannot be ended either
	kept, why, err := c.Sessions.Put(ctx, credential.Session{Server: cl.Server(), Name: got.Name, Expires: got.ExpiresAt, Token: got.Token})
	if err != nil {
		// A session that nobody can use any more should not live on.
		c.endSession(ctx, got.Token)
		return err
	}
	if old.Token != "" && old.Token != got.Token { // nobody has it any more
		c.endSession(ctx, old.Token)
	}
	if why != "" {
		c.say("the system's keyring does not take the session (%s): it is kept in a file", why)
	}
	if strings.TrimSpace(c.Getenv("CURFEW_TOKEN")) != "" {
		c.say("CURFEW_TOKEN is set, and goes before this session: take it out of the environment")
	}
	file := ""
	if server, err := credential.Canonical(cl.Server()); err == nil {
		file = c.Sessions.File(server)
	}
	r := LoginResult{Server: cl.Server(), Name: got.Name, Roles: got.Roles, Groups: got.Groups, ExpiresAt: got.ExpiresAt, Kept: kept, File: file}
	return c.show(r, func() string {
		var f fields
		f.add("signed in", r.Name)
		f.add("roles", noneIfEmpty(r.Roles))
		f.add("groups", strings.Join(r.Groups, ", "))
		f.add("server", r.Server)
		if !r.ExpiresAt.IsZero() {
			f.add("until", until(r.ExpiresAt, c.now(), c.Location))
		}
		if kept == credential.InKeyring {
			f.add("kept in", "the system's keyring")
		} else {
			f.add("kept in", file)
		}
		return f.String()
	})
}

// endSession ends a session whose token is not kept any more, if the server lets itself be asked; otherwise it ends at its time.
func (c *cli) endSession(ctx context.Context, token string) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	if cl, err := c.anonymous(token); err == nil {
		_ = cl.Logout(ctx)
	}
}

func noneIfEmpty(list []string) string {
	if len(list) == 0 {
		return "none"
	}
	return strings.Join(list, ", ")
}

// LogoutResult says what became of a session.
type LogoutResult struct {
	Server    string `json:"server"`
	Name      string `json:"name"`      // "": nobody was signed in
	Ended     bool   `json:"ended"`     // at the server
	Forgotten bool   `json:"forgotten"` // here
}

func (c *cli) logoutCmd() *cobra.Command {
	return &cobra.Command{
		Use: "logout", Short: "End the session at the server, and forget its token",
		Long: `Ends the session that curfew login opened at this server, and forgets its token here. If the server is away the token is forgotten all
the same, and the session ends at its time: what an admin ends sooner with curfew session end.`,
		Args: need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if c.as != "" || c.tokenFile != "" {
				return badInput("as", "logout ends the session of curfew login: leave --as and --token-file out")
			}
			if c.Sessions == nil {
				return access.Errorf(access.CodeUnavailable, "there is no place where a session could be: the user has no configuration directory").WithHint("set HOME or XDG_CONFIG_HOME")
			}
			return c.runLogout(cmd.Context())
		},
	}
}

func (c *cli) runLogout(ctx context.Context) error {
	server := c.serverURL()
	s, err := c.Sessions.Get(ctx, server)
	if err != nil { // not to be read is a reason to forget it
		c.say("%s", err)
		if derr := c.Sessions.Delete(ctx, server); derr != nil {
			return derr
		}
		return access.Errorf(access.CodeUnavailable, "the session at %s is forgotten here, and could not be ended at the server: its token could not be read", server).
			WithHint("it ends at its time; an admin can end it sooner: curfew session end PERSON")
	}
	r := LogoutResult{Server: server, Name: s.Name}
	if s.Token == "" {
		if err := c.Sessions.Delete(ctx, server); err != nil {
			return err
		}
		c.say("nobody is signed in at %s", server)
		return c.show(r, func() string { return "" })
	}
	var endErr error
	if cl, err := c.anonymous(s.Token); err != nil {
		endErr = err
	} else {
		endErr = cl.Logout(ctx)
	}
	if access.CodeOf(endErr) == access.CodeUnauthenticated { // over already
		endErr = nil
	}
	r.Ended = endErr == nil
	if err := c.Sessions.Delete(context.WithoutCancel(ctx), server); err != nil {
		return errors.Join(err, endErr)
	}
	r.Forgotten = true
	if strings.TrimSpace(c.Getenv("CURFEW_TOKEN")) != "" {
		c.say("CURFEW_TOKEN is still set, and signs in by itself")
	}
	if err := c.show(r, func() string {
		if r.Ended {
			return "signed out: " + safe(r.Name) + "\n"
		}
		return "forgotten here: the session of " + safe(r.Name) + "\n"
	}); err != nil {
		return err
	}
	if endErr != nil {
		e := access.Errorf(access.CodeOf(endErr), "the token is forgotten here, and the session was not ended at the server: %v", endErr)
		return e.WithHint("it ends at its time; an admin can end it sooner: curfew session end %s", s.Name)
	}
	return nil
}

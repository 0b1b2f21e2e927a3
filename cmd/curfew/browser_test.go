package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"os"
	"regexp"
	"strings"
	"time"
)

var hiddenField = regexp.MustCompile(`<input type="hidden" name="(\w+)" value="([^"]+)">`)

// choose is somebody in front of the pages of the demo's issuer: it opens an address, chooses an account where one is asked for, follows
// the redirects, and returns the page at which it ends. "" cancels.
func choose(ctx context.Context, address, account string) (string, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return "", err
	}
	hc := &http.Client{Jar: jar, Timeout: 20 * time.Second}
	get := func(method, address string, form url.Values) (*http.Response, string, error) {
		req, err := http.NewRequestWithContext(ctx, method, address, nil)
		if err != nil {
			return nil, "", err
		}
		if form != nil {
			req, err = http.NewRequestWithContext(ctx, method, address, strings.NewReader(form.Encode()))
			if err != nil {
				return nil, "", err
			}
			req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		}
		res, err := hc.Do(req)
		if err != nil {
			return nil, "", err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(io.LimitReader(res.Body, 1<<20))
		return res, string(b), err
	}
	res, page, err := get(http.MethodGet, address, nil)
	if err != nil {
		return "", err
	}
	m := hiddenField.FindStringSubmatch(page)
	if m == nil {
		return page, fmt.Errorf("%s: %s, and no account to choose", res.Request.URL, res.Status)
	}
	if res, page, err = get(http.MethodPost, res.Request.URL.String(), url.Values{m[1]: {m[2]}, "account": {account}}); err != nil {
		return "", err
	}
	if res.StatusCode != http.StatusOK {
		return page, fmt.Errorf("%s: %s", res.Request.URL, res.Status)
	}
	return page, nil
}

// fakeBrowser is a program that BROWSER names: it chooses the account in CHOOSE, and shows in the file PAGE what it came to see.
func fakeBrowser() {
	err := errors.New("usage: choose URL")
	page := ""
	if len(os.Args) == 2 {
		page, err = choose(context.Background(), os.Args[1], os.Getenv("CHOOSE"))
	}
	if err != nil {
		page += "\n" + err.Error()
	}
	if os.Getenv("CURFEW_TOKEN") != "" {
		page += "\na token of ours was given to the browser"
	}
	if f := os.Getenv("PAGE"); f != "" {
		_ = os.WriteFile(f, []byte(page), 0o600)
	}
	if err != nil {
		os.Exit(1)
	}
}

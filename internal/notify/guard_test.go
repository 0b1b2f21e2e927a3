package notify_test

import (
	"context"
	"encoding/binary"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/notify"
)

var loopback = []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8"), netip.MustParsePrefix("::1/128")}

func TestTheGuardRefusesWhatLeadsInside(t *testing.T) {
	refused := `0.0.0.0 10.0.0.1 10.255.255.255 100.64.0.1 100.127.255.254 127.0.0.1 127.255.0.1 168.63.129.16 169.254.0.1 172.16.0.1 172.31.255.255
192.0.0.8 192.0.0.170 192.168.1.1 198.18.0.1 224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255
:: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:10.0.0.1 ::ffff:0:10.0.0.1 ::ffff:0:8.8.8.8
64:ff9b::10.0.0.1 64:ff9b::7f00:1 64:ff9b::8.8.8.8 64:ff9b:1::1 2002:7f00:1:: 2002:a00:1::1 2002:808:808:: 2002:c0a8:101::
2001:0:4136:e378:8000:63bf:f5ff:fffe 2001:0:4136:e378:8000:63bf:3fff:fdd2 2001:2::1 2001:20::1 2001:db8::1 3fff::1
2620:fe::5efe:a00:1 2620:fe::200:5efe:10.0.0.1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0 2620:fe::fe%eth0 fec0::1 ff02::1 4000::1 100::1 5f00::1`
	var g notify.Guard
	for _, s := range strings.Fields(refused) {
		if err := g.Check(netip.MustParseAddr(s)); err == nil {
			t.Errorf("%s is let through", s)
		}
	}
	if g.Check(netip.Addr{}) == nil {
		t.Error("no address is let through")
	}
	for _, s := range strings.Fields("8.8.8.8 1.1.1.1 100.63.255.255 100.128.0.0 172.15.255.255 172.32.0.0 169.253.255.255 192.0.1.1 223.255.255.255 168.63.129.15 2606:4700:4700::1111 2a00:1450:4001::200e ::ffff:8.8.8.8") {
		if err := g.Check(netip.MustParseAddr(s)); err != nil {
			t.Errorf("%s is refused: %v", s, err)
		}
	}
	g.Allow = []netip.Prefix{netip.MustParsePrefix("10.1.0.0/16"), netip.MustParsePrefix("fd00::/8")}
	for s, want := range map[string]bool{"10.1.2.3": true, "::ffff:10.1.2.3": true, "10.2.0.1": false, "fd12::1": true, "fc12::1": false, "127.0.0.1": false, "64:ff9b::10.1.2.3": false} {
		if err := g.Check(netip.MustParseAddr(s)); (err == nil) != want {
			t.Errorf("with an allowed network: %s: %v, want let through %v", s, err, want)
		}
	}
}

func TestTargetsInOddForms(t *testing.T) {
	g := notify.Guard{Allow: loopback}
	for _, s := range []string{"", "hooks.example.com", "//hooks.example.com/x", "ftp://hooks.example.com", "http://hooks.example.com/", "http://localhost/", "http://10.0.0.1/", "https://10.0.0.1/",
		"https://user@hooks.example.com/", "https://user:pass@hooks.example.com/", "https://hooks.example.com@10.0.0.1/", "https://hooks.example.com/#x", "https://hooks.example.com/#",
		"https://2130706433/", "https://0x7f.1/", "https://0x7f000001/", "https://017700000001/", "https://127.1/", "https://1.2.3/", "https://10.0.0.01/", "https://[fe80::1%25eth0]/", "https://[::ffff:10.0.0.1]/",
		"https://[64:ff9b::a00:1]/", "https://[2002:a00:1::]/", "https://ⓔxample.com/", "https://example.com\\@10.0.0.1/", "https://exa mple.com/", "https://example.com:0/", "https://example.com:99999/", "https://example.com:/",
		"https:///x", "https:hooks.example.com", "https://-x.example.com/", "https://exa%6dple.com/", "https://example..com/", "javascript:alert(1)", "https://example.com/\r\nHost: x", "https://a.b.c.0x10/"} {
		if u, err := g.ParseTarget(s); err == nil {
			t.Errorf("%q is taken as %v", s, u)
		} else if s != "" && strings.Contains(err.Error(), s) {
			t.Errorf("%q: the error repeats it, and it may be a secret: %v", s, err)
		}
	}
	for _, s := range []string{"https://hooks.example.com/services/T0/B0/x?a=b", "https://example.com:8443/", "https://8.8.8.8/", "https://[2606:4700::1]:8443/x", "http://127.0.0.1:9/", "http://[::1]:9/", "https://xn--bcher-kva.example/"} {
		if _, err := g.ParseTarget(s); err != nil {
			t.Errorf("%q is refused: %v", s, err)
		}
	}
	if _, err := (notify.Guard{}).ParseTarget("http://127.0.0.1:9/"); err == nil {
		t.Error("loopback is taken though the channel does not allow it")
	}
}

// rebinding answers DNS queries over a pipe: the first answer leads outside, the next ones inside.
func rebinding(answers ...netip.Addr) *net.Resolver {
	var asked atomic.Int32
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		client, server := net.Pipe()
		go func() {
			defer server.Close()
			for {
				var size [2]byte
				if _, err := readFull(server, size[:]); err != nil {
					return
				}
				q := make([]byte, binary.BigEndian.Uint16(size[:]))
				if _, err := readFull(server, q); err != nil {
					return
				}
				end := 12
				for end < len(q) && q[end] != 0 {
					end += int(q[end]) + 1
				}
				question := q[12 : end+5]
				res := append([]byte{q[0], q[1], 0x81, 0x80, 0, 1, 0, 0, 0, 0, 0, 0}, question...)
				if binary.BigEndian.Uint16(question[len(question)-4:]) == 1 { // A; there is no AAAA
					a := answers[min(int(asked.Add(1))-1, len(answers)-1)].As4()
					res[7] = 1
					res = append(res, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, a[0], a[1], a[2], a[3])
				}
				if _, err := server.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(res))), res...)); err != nil {
					return
				}
			}
		}()
		return streamOnly{client}, nil
	}}
}

// streamOnly has the resolver speak DNS over TCP, with a length before each message.
type streamOnly struct{ net.Conn }

func readFull(c net.Conn, b []byte) (int, error) {
	n := 0
	for n < len(b) {
		m, err := c.Read(b[n:])
		n += m
		if err != nil {
			return n, err
		}
	}
	return n, nil
}

func TestANameThatResolvesInside(t *testing.T) {
	called := false
	srv := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { called = true }))
	defer srv.Close()
	_, port, _ := net.SplitHostPort(srv.Listener.Addr().String())
	get := func(g notify.Guard) error {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://hooks.example.com:"+port+"/", nil)
		res, err := g.Client().Do(req)
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	inside := netip.MustParseAddr("127.0.0.1")
	err := get(notify.Guard{Resolver: rebinding(inside)})
	if err == nil || called || !strings.Contains(err.Error(), "loopback") {
		t.Fatalf("called %v, error %v: want a refusal that names loopback", called, err)
	}
	// What was checked once is checked again when it is connected to: the name leads inside only at the second look.
	g := notify.Guard{Resolver: rebinding(netip.MustParseAddr("198.18.0.1"), inside)}
	ips, err := g.Resolver.LookupNetIP(t.Context(), "ip4", "hooks.example.com")
	if err != nil || len(ips) != 1 || ips[0] != netip.MustParseAddr("198.18.0.1") {
		t.Fatalf("the first look: %v, %v", ips, err)
	}
	if err := get(g); err == nil || called {
		t.Fatalf("a name that was bound anew is followed: called %v, error %v", called, err)
	}
	// The same way goes through where the channel allows it: the refusal above is the guard's.
	if err := get(notify.Guard{Resolver: rebinding(inside), Allow: loopback}); err != nil || !called {
		t.Fatalf("with loopback allowed: called %v, error %v", called, err)
	}
}

func TestTheGuardRefusesOtherNetworks(t *testing.T) {
	d := notify.Guard{Allow: loopback}.Dialer()
	ctx, cancel := context.WithTimeout(t.Context(), time.Second)
	defer cancel()
	if c, err := d.DialContext(ctx, "udp", "127.0.0.1:9"); err == nil {
		c.Close()
		t.Error("udp is let through")
	}
	if c, err := d.DialContext(ctx, "unix", "/nowhere"); err == nil {
		c.Close()
		t.Error("a Unix socket is let through")
	} else if errors.Is(err, context.DeadlineExceeded) {
		t.Error(err)
	}
}

package access_test

import (
	"encoding"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/access"
)

func TestParseDuration(t *testing.T) {
	const day = 24 * time.Hour
	for _, c := range []struct {
		in    string
		want  time.Duration // -1: refused
		print string
	}{
		{"45m", 45 * time.Minute, "45m"}, {"90m", 90 * time.Minute, "1h30m"}, {"1h30m", 90 * time.Minute, "1h30m"},
		{"1d", day, "24h"}, {"2d12h", 60 * time.Hour, "60h"}, {"10s", 10 * time.Second, "10s"}, {"10m10s", 610 * time.Second, "10m10s"},
		{"1h30s", time.Hour + 30*time.Second, "1h30s"}, {"10h", 10 * time.Hour, "10h"}, {"100m", 100 * time.Minute, "1h40m"},
		{" 5M ", 5 * time.Minute, "5m"}, {"0m", 0, "0s"}, {"007m", 7 * time.Minute, "7m"}, {"3660d", 3660 * day, "87840h"},
		{"", -1, ""}, {" ", -1, ""}, {"5", -1, ""}, {"m", -1, ""}, {"-5m", -1, ""}, {"+5m", -1, ""}, {"1.5h", -1, ""}, {"1h1h", -1, ""},
		{"5m1h", -1, ""}, {"1h 5m", -1, ""}, {"5min", -1, ""}, {"5µs", -1, ""}, {"1w", -1, ""}, {"5 m", -1, ""}, {"PT5M", -1, ""}, {"٥m", -1, ""},
		{"3661d", -1, ""}, {"3660d1s", -1, ""}, {"106752d", -1, ""}, {"213504d", -1, ""}, // once more than an int64 of nanoseconds
		{"18446744073709551617m", -1, ""}, {"99999999999999999999s", -1, ""},
	} {
		got, err := access.ParseDuration(c.in)
		if c.want < 0 {
			if err == nil {
				t.Errorf("%q is read as %v", c.in, got)
			} else {
				wellSaid(t, err)
			}
			continue
		}
		if err != nil || got != c.want || access.Duration(got).String() != c.print {
			t.Errorf("%q: %v, %v, prints %q, want %v, %q", c.in, got, err, access.Duration(got), c.want, c.print)
		}
	}
	// What cannot be read is never printed larger than it is.
	for d, want := range map[time.Duration]string{time.Second - 1: "0s", time.Minute - 1: "59s", 2*time.Hour - 1: "1h59m59s", -time.Hour: "-1h0m0s",
		-1: "0s", 1<<63 - 1: "2562047h47m16s"} {
		if got := access.Duration(d).String(); got != want {
			t.Errorf("%d: %q, want %q", d, got, want)
		}
	}
	d := access.Duration(time.Hour)
	if err := d.UnmarshalText([]byte("nonsense")); err == nil || d != access.Duration(time.Hour) {
		t.Errorf("a text that is refused: %v, %v", err, d)
	}
}

func TestParsePorts(t *testing.T) {
	for in, want := range map[string]access.Ports{
		"22": access.Port(22), " 22 ": access.Port(22), "8000-8010": {First: 8000, Last: 8010}, "1-65535": {First: 1, Last: 65535}, "22-22": access.Port(22),
		"8000 - 8010": {First: 8000, Last: 8010}, "65535": access.Port(65535), "0022": access.Port(22),
		"": {}, "0": {}, "0-22": {}, "65536": {}, "22-65536": {}, "8010-8000": {}, "22-": {}, "-22": {}, "-": {}, "1-2-3": {}, "+22": {}, "2_2": {}, "0x16": {},
		"*": {}, "any": {}, "22,23": {}, "22.0": {}, "99999999999999999999": {}, "٢٢": {}, "4294967318": {},
	} {
		got, err := access.ParsePorts(in)
		if !want.Valid() {
			if err == nil {
				t.Errorf("%q is read as %s", in, got)
			} else {
				wellSaid(t, err)
			}
		} else if err != nil || got != want {
			t.Errorf("%q: %s, %v, want %s", in, got, err, want)
		}
	}
}

func TestPortsAlgebra(t *testing.T) {
	// Dumb: the sets, port by port.
	set := func(p access.Ports) map[int]bool {
		m := map[int]bool{}
		for i := int(p.First); i > 0 && i <= int(p.Last); i++ {
			m[i] = true
		}
		return m
	}
	for a := range uint16(7) {
		for b := range uint16(7) {
			for c := range uint16(7) {
				for d := range uint16(7) {
					p, q := access.Ports{First: a, Last: b}, access.Ports{First: c, Last: d}
					ps, qs := set(p), set(q)
					contains, overlaps := len(qs) > 0, false
					for i := range qs {
						contains, overlaps = contains && ps[i], overlaps || ps[i]
					}
					if p.Contains(q) != contains || p.Overlaps(q) != overlaps || p.Count() != len(ps) || p.Valid() != (len(ps) > 0) {
						t.Fatalf("%s, %s: contains %v, overlaps %v, count %d, valid %v", p, q, p.Contains(q), p.Overlaps(q), p.Count(), p.Valid())
					}
				}
			}
		}
	}
}

func TestParseProtocol(t *testing.T) {
	for in, want := range map[string]access.Protocol{"": access.TCP, "tcp": access.TCP, "Tcp": access.TCP, "UDP": access.UDP, "*": "", "icmp": "", "tcp ": ""} {
		got, err := access.ParseProtocol(in)
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%q: %q, %v", in, got, err)
		}
		if err != nil {
			wellSaid(t, err)
		}
	}
}

func TestParseSource(t *testing.T) {
	for in, want := range map[string]string{
		"198.51.100.7": "198.51.100.7/32", " 198.51.100.7 ": "198.51.100.7/32", "198.51.100.0/24": "198.51.100.0/24", "::ffff:198.51.100.7": "198.51.100.7/32",
		"2001:db8::1": "2001:db8::1/128", "2001:DB8::/64": "2001:db8::/64", "0.0.0.0/0": "0.0.0.0/0", "::/0": "::/0", "10.0.0.0/8": "10.0.0.0/8",
		"": "", "my-ip": "", "*": "", "Internet": "", "198.51.100": "", "198.51.100.7/33": "", "198.51.100.7/24": "", "198.51.100.007": "",
		"198.51.100.7-198.51.100.9": "", "198.51.100.7,198.51.100.8": "", "fe80::1%eth0": "", "fe80::1": "", "fe80::/10": "", "127.0.0.1": "", "127.0.0.0/8": "",
		"0.0.0.0": "", "::": "", "::1": "", "224.0.0.1": "", "ff02::1": "", "255.255.255.255": "", "169.254.0.0/16": "", "::ffff:198.51.100.0/120": "",
		"198.51.100.7/": "", "/24": "", "198.51.100.7/024": "", "2001:db8::1%1": "",
	} {
		got, err := access.ParseSource(in)
		if want == "" {
			if err == nil {
				t.Errorf("%q is read as %s", in, got)
			} else {
				wellSaid(t, err)
			}
		} else if err != nil || got.String() != want {
			t.Errorf("%q: %s, %v, want %s", in, got, err, want)
		}
	}
	if _, err := access.CheckSource(netip.Prefix{}); err == nil {
		t.Error("no prefix is a source")
	} else {
		wellSaid(t, err)
	}
}

func TestPrefixWithin(t *testing.T) {
	ps := []string{"0.0.0.0/0", "198.51.100.0/24", "198.51.100.7/32", "203.0.113.0/24", "::/0", "2001:db8::/64", "2001:db8::7/128"}
	within := map[string]bool{"198.51.100.0/24 0.0.0.0/0": true, "198.51.100.7/32 0.0.0.0/0": true, "198.51.100.7/32 198.51.100.0/24": true,
		"203.0.113.0/24 0.0.0.0/0": true, "2001:db8::/64 ::/0": true, "2001:db8::7/128 ::/0": true, "2001:db8::7/128 2001:db8::/64": true}
	for _, a := range ps {
		for _, b := range ps {
			if got := access.PrefixWithin(netip.MustParsePrefix(a), netip.MustParsePrefix(b)); got != (a == b || within[a+" "+b]) {
				t.Errorf("%s within %s: %v", a, b, got)
			}
		}
	}
	for _, b := range []netip.Prefix{{}, netip.MustParsePrefix("0.0.0.0/0"), netip.MustParsePrefix("::/0")} {
		if access.PrefixWithin(netip.Prefix{}, b) || access.PrefixWithin(b, netip.Prefix{}) {
			t.Errorf("no prefix lies within %s, or it within none", b)
		}
	}
}

func TestScope(t *testing.T) {
	for id, want := range map[string]string{
		web.VM.ID: "s1 rg-web", strings.ToUpper(web.VM.ID): "S1 RG-WEB", strings.Trim(web.VM.ID, "/"): "s1 rg-web",
		"": " ", "web-01": " ", "/subscriptions/s1": " ", "/subscriptions/s1/providers/x/y": " ", "/a/b/c/d": " ",
	} {
		sub, group := access.VM{ID: id}.Scope()
		if sub+" "+group != want {
			t.Errorf("%q: %q %q", id, sub, group)
		}
	}
}

// roundTrip holds a value to: what it prints is read as itself, and prints the same again.
func roundTrip[T comparable, P interface {
	*T
	encoding.TextMarshaler
	encoding.TextUnmarshaler
}](t *testing.T, v T) {
	t.Helper()
	text, err := P(&v).MarshalText()
	if err != nil {
		t.Fatal(err)
	}
	var back T
	if err := P(&back).UnmarshalText(text); err != nil || back != v {
		t.Fatalf("%v prints %q, which is read as %v (%v)", v, text, back, err)
	}
	if again, _ := P(&back).MarshalText(); string(again) != string(text) {
		t.Fatalf("%q, then %q", text, again)
	}
}

func FuzzDuration(f *testing.F) {
	for _, s := range []string{"45m", "1h30m", "2d", "1d2h3m4s", "213504d", "5", "-1h", "0s", "1h1h", "\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := access.ParseDuration(s)
		if err != nil {
			if !strings.Contains(s, "%!") { // which fmt writes where a format is wrong, and which the input may hold
				wellSaid(t, err)
			}
			return
		}
		if d < 0 || d > 3660*24*time.Hour || d%time.Second != 0 {
			t.Fatalf("%q is read as %v", s, d)
		}
		roundTrip(t, access.Duration(d))
	})
}

func FuzzPorts(f *testing.F) {
	for _, s := range []string{"22", "8000-8010", "0", "65536", "10-5", "1-65535", "22-"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := access.ParsePorts(s)
		if err != nil {
			if !strings.Contains(s, "%!") { // which fmt writes where a format is wrong, and which the input may hold
				wellSaid(t, err)
			}
			return
		}
		if !p.Valid() || p.Count() < 1 {
			t.Fatalf("%q is read as %v", s, p)
		}
		roundTrip(t, p)
	})
}

func FuzzSource(f *testing.F) {
	for _, s := range []string{"198.51.100.7", "198.51.100.0/24", "::ffff:10.0.0.1", "2001:db8::/64", "fe80::1%eth0", "0.0.0.0/0", "10.0.0.1/8", "::ffff:10.0.0.0/104"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := access.ParseSource(s)
		if err != nil {
			if !strings.Contains(s, "%!") { // which fmt writes where a format is wrong, and which the input may hold
				wellSaid(t, err)
			}
			return
		}
		if !p.IsValid() || p != p.Masked() || p.Addr().Zone() != "" || p.Addr().Is4In6() {
			t.Fatalf("%q is read as %v", s, p)
		}
		if back, err := access.ParseSource(p.String()); err != nil || back != p {
			t.Fatalf("%q prints %s, which is read as %s (%v)", s, p, back, err)
		}
	})
}

package inert_test

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/curfew-jit/curfew/internal/inert"
)

func TestHostileNamesAreEscaped(t *testing.T) {
	for in, want := range map[string]string{
		"web-01":                "web-01",
		"büro-東京":               "büro-東京",
		"a\x1b[31mred":          `a\x1b[31mred`,
		"a\nb\tc\r":             `a\nb\tc\r`,
		"a\u202egnp.exe":        `a\u202egnp.exe`,
		"a\u009b31m":            `a\u009b31m`,
		"a\u2066b\u2069":        `a\u2066b\u2069`,
		"bad\xff\xfe":           `bad\xff\xfe`,
		"a\u2028b":              `a\u2028b`,
		"zero\u200bwidth\ufeff": `zero\u200bwidth\ufeff`,
		"e\u0301":               "e\u0301",
		"a\u200db":              "a\u200db",
		"\ufffe\U0001ffff":      `\ufffe\U0001ffff`,
	} {
		if got := inert.Text(in); got != want {
			t.Errorf("Text(%q): got %q, want %q", in, got, want)
		}
	}
}

func FuzzText(f *testing.F) {
	for _, s := range []string{"", "web-01", "\x1b]0;x\a", "\u202e", "\xff", "東京\u0301"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		got := inert.Text(s)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, inert.Hostile) {
			t.Errorf("Text(%q) lets through %q", s, got)
		}
		if again := inert.Text(got); again != got {
			t.Errorf("Text is not stable on %q: %q", got, again)
		}
	})
}

func TestLines(t *testing.T) {
	for in, want := range map[string]string{"": "", "a\nb": "a\nb", "a\r\nb\n": "a\nb\n", "\tx\x1b[1m\n\u202ey": "\tx\\x1b[1m\n\\u202ey", "a\rb": `a\rb`, "\xff\n": "\\xff\n"} {
		if got := inert.Lines(in); got != want {
			t.Errorf("Lines(%q): got %q, want %q", in, got, want)
		}
	}
}

func TestWidth(t *testing.T) {
	for in, want := range map[string]int{"": 0, "web-01": 6, "e\u0301": 1, "東京": 4, "\U0001f600": 2, "a\u200db": 2, "ü": 1} {
		if got := inert.Width(in); got != want {
			t.Errorf("Width(%q): got %d, want %d", in, got, want)
		}
	}
}

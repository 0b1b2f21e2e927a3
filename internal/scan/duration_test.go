package scan_test

import (
	"fmt"
	"math/big"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/curfew-jit/curfew/internal/scan"
)

func TestParseDuration(t *testing.T) {
	for _, c := range []struct {
		in   string
		want time.Duration
	}{
		{"PT5M", 5 * time.Minute}, {"PT300S", 5 * time.Minute}, {"PT0H5M", 5 * time.Minute}, {"P0DT5M", 5 * time.Minute}, {"P0DT0H5M0S", 5 * time.Minute},
		{"pt5m", 5 * time.Minute}, {"PT05M", 5 * time.Minute}, {"PT0.25H", 15 * time.Minute}, {"PT7.5M", 450 * time.Second}, {"PT0,5H", 30 * time.Minute},
		{"P1D", 24 * time.Hour}, {"PT24H", 24 * time.Hour}, {"P1W", 7 * 24 * time.Hour}, {"P1DT1H1M1S", 25*time.Hour + 61*time.Second}, {"PT0S", 0},
		{"PT1.000000001S", time.Second + 1}, {"PT4M59S", 299 * time.Second}, {"PT1H30M", 90 * time.Minute}, {"P0.5D", 12 * time.Hour},
	} {
		got, err := scan.ParseDuration(c.in)
		if err != nil || got != c.want {
			t.Errorf("%q: got %v and %v, want %v", c.in, got, err, c.want)
		}
	}
	for _, c := range []string{
		"", "P", "PT", "P1DT", "5M", "T5M", "PT5", "PTM", "PT5M5H", "PT1H1H", "P5M", "P1Y", "P1M", "-PT5M", "+PT5M", "PT-5M", "P-1D", "PT5M ", " PT5M", "PT 5M",
		"PT1.5H30M", "PT.5H", "PT5.M", "PT1.0000000001S", "PT9999999999H", "PT99999999999999999999999999S", "P3661D", "PTT5M", "PT5MT5S", "P1H", "PT1D", "PT1W",
		"00:05:00", "5m", "PT５M", "PT5M\x00", "P" + strings.Repeat("0", 100) + "D", "PT1e3S", "PT0x5M", "P1D1W",
	} {
		if got, err := scan.ParseDuration(c); err == nil {
			t.Errorf("%q: got %v, want an error", c, got)
		} else if !strings.Contains(err.Error(), "ISO 8601") || len(err.Error()) > 200 {
			t.Errorf("%q: the error is %v", c, err)
		}
	}
}

var plainDuration = regexp.MustCompile(`^P(?:([0-9]+)W)?(?:([0-9]+)D)?(?:T(?:([0-9]+)H)?(?:([0-9]+)M)?(?:([0-9]+)S)?)?$`)

// Whatever it takes is what arithmetic without bounds says, within ten years; whole numbers in order are refused for their size alone.
func FuzzParseDuration(f *testing.F) {
	for _, s := range []string{"PT5M", "PT9999999999H", "P1DT0.5S", "pt1h", "P", "PT1H1H", "P1W1D", "PT000000000000000000000000000005M"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		d, err := scan.ParseDuration(s)
		if err == nil && (d < 0 || d > 10*366*24*time.Hour) {
			t.Fatalf("%q: %v", s, d)
		}
		m := plainDuration.FindStringSubmatch(strings.ToUpper(s))
		if m == nil {
			return
		}
		sum, parts := new(big.Int), 0
		for i, unit := range []time.Duration{7 * 24 * time.Hour, 24 * time.Hour, time.Hour, time.Minute, time.Second} {
			if m[i+1] == "" {
				continue
			}
			n, ok := new(big.Int).SetString(m[i+1], 10)
			if !ok {
				t.Fatal(m[i+1])
			}
			sum.Add(sum, n.Mul(n, big.NewInt(int64(unit))))
			parts++
		}
		fits := sum.Cmp(big.NewInt(int64(10*366*24*time.Hour))) <= 0 && parts > 0 && !strings.HasSuffix(strings.ToUpper(s), "T") && len(s) <= 64
		if fits != (err == nil) || err == nil && sum.Cmp(big.NewInt(int64(d))) != 0 {
			t.Fatalf("%q: got %v and %v, arithmetic says %v", s, d, err, sum)
		}
	})
}

func ExampleParseDuration() {
	d, _ := scan.ParseDuration("P0DT0H5M")
	_, err := scan.ParseDuration("PT1H1H")
	fmt.Println(d)
	fmt.Println(err)
	// Output:
	// 5m0s
	// "PT1H1H" is not a duration in ISO 8601: the unit 'H' is not understood there
}

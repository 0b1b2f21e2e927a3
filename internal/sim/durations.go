package sim

import (
	"regexp"
	"strconv"
	"time"
)

var isoForm = regexp.MustCompile(`^P(?:(\d+)D)?(?:T(?:(\d+)H)?(?:(\d+)M)?(?:(\d+)(?:\.\d+)?S)?)?$`)

// isoDuration reads the ISO 8601 durations that ARM uses: days, hours, minutes, seconds. Months and years have no fixed length and are refused.
func isoDuration(v string) (d time.Duration, ok bool) {
	m := isoForm.FindStringSubmatch(v)
	if m == nil || m[1]+m[2]+m[3]+m[4] == "" {
		return 0, false
	}
	for i, unit := range []time.Duration{24 * time.Hour, time.Hour, time.Minute, time.Second} {
		if m[i+1] == "" {
			continue
		}
		n, err := strconv.Atoi(m[i+1])
		if err != nil || n > 100000 {
			return 0, false
		}
		d += time.Duration(n) * unit
	}
	return d, true
}

package export

import (
	"encoding/json"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/curfew-jit/curfew/internal/audit"
)

// cefSeverity maps the five severities to CEF's 0 to 10, in the middle of low (0-3), medium (4-6), high (7-8) and very high (9-10).
var cefSeverity = map[int]int{1: 1, 2: 3, 3: 5, 4: 8, 5: 10}

// cefHeader escapes a field of the header: backslash and pipe get a backslash; nothing there may be a line end.
func cefHeader(s string) string {
	return strings.NewReplacer(`\`, `\\`, `|`, `\|`).Replace(safe(s))
}

// cefValue escapes the value of an extension: backslash and equals sign get a backslash, and line ends, which are allowed in values, are
// written as \n and \r. All other controls are shown as escapes.
func cefValue(s string) string {
	return strings.NewReplacer(`\`, `\\`, `=`, `\=`, "\n", `\n`, "\r", `\r`).Replace(escape(s, "\n\r"))
}

// cefLine is an entry as one CEF event, without a syslog header: whatever sends it adds its own. Values are cut at the lengths of the
// format's dictionary; the JSON lines hold them whole.
func cefLine(e audit.Entry, leaf string, one bool, o Options) []byte {
	m := meant(e)
	var b strings.Builder
	version := "0"
	if one {
		version = "1"
	}
	b.WriteString("CEF:" + version + "|Curfew|Curfew|" + cefHeader(cut(o.Version, 31)) + "|" + cefHeader(cut(e.Action, 200)) + "|" + cefHeader(m.title) + "|" +
		strconv.Itoa(cefSeverity[severity(e)]) + "|")
	first := true
	put := func(key, value string, limit int) {
		if value == "" {
			return
		}
		if !first {
			b.WriteByte(' ')
		}
		first = false
		b.WriteString(key + "=" + cefValue(cut(value, limit)))
	}
	labelled := func(key, label, value string, limit int) {
		if value != "" {
			put(key, value, limit)
			put(key+"Label", label, 1023)
		}
	}
	put("rt", strconv.FormatInt(e.At.UnixMilli(), 10), 40)
	put("externalId", strconv.FormatInt(e.Index, 10), 40)
	put("act", e.Action, 63)
	put("outcome", string(e.Outcome), 63)
	put("cat", m.class.name, 1023)
	put("suser", e.Actor, 1023)
	if from, err := netip.ParseAddr(e.Detail["from"]); err == nil {
		if one || from.Is4() {
			put("src", from.String(), 64)
		} else {
			labelled("c6a2", "Source IPv6 Address", from.String(), 64)
		}
	}
	put("duser", e.Detail["requester"], 1023)
	put("dhost", e.VM, 1023)
	put("reason", e.Detail["reason"], 1023)
	if end, err := time.Parse(time.RFC3339, e.Detail["ends_at"]); err == nil {
		put("end", strconv.FormatInt(end.UnixMilli(), 10), 40)
	}
	labelled("cs1", "Merkle leaf hash", leaf, 4000)
	labelled("cs2", "Correlation", e.Correlation, 4000)
	labelled("cs3", "Object", e.Object, 4000)
	labelled("cs4", "Policy rules", e.Detail["rules"], 4000)
	labelled("cs5", "Request", e.Request, 4000)
	if len(e.Detail) > 0 {
		if d, err := json.Marshal(e.Detail); err == nil {
			labelled("cs6", "Detail", string(line(d)), 4000)
		}
	}
	if e.Late {
		labelled("flexString1", "Recorded later", "true", 1023)
	}
	put("deviceFacility", "audit", 1023)
	put("deviceExternalId", o.Origin, 255)
	put("msg", e.Message, 1023)
	return []byte(b.String())
}

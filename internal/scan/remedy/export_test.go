package remedy

import (
	"sync"

	"github.com/curfew-jit/curfew/internal/scan"
)

// JIT returns the remediation of just-in-time access for a machine by the template and without it; the first is nil of a machine that no
// template is for.
func JIT(sub, group, name, id, location, policy string, ports ...string) (quick, slow *scan.Remediation) {
	m := unprotected{sub, group, name, id, location, policy, ports}
	if p := (&plan{templates: &sync.Map{}}); m.plain() {
		p.jit(unprotected{"s", "g", "n", "/i", "l", "p", ports}) // which must leave nothing behind
		quick = p.jit(m)
	}
	p := &plan{f: scan.Finding{Rule: scan.VMJITMissing}}
	p.jitSwitch(m)
	p.jitPolicy(m)
	return quick, p.render()
}

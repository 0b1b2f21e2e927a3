package server

import (
	"github.com/curfew-jit/curfew/api"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/clock"
)

// Converter turns what a broker takes and gives into the wire's types and back, for a program that calls a broker in its own
// process: it shows the same as one that calls a server. Clock is what grants are judged by; nil is the machine's.
type Converter struct{ Clock clock.Clock }

// VM is a machine as the API shows it.
func (c Converter) VM(v broker.VMInfo) api.VM {
	if c.Clock == nil {
		c.Clock = clock.System{}
	}
	return (&Server{clock: c.Clock}).vm(v)
}

// ProtectPlan is a plan as the API shows it.
func (Converter) ProtectPlan(p broker.ProtectPlan) api.ProtectPlan { return protectPlan(p) }

// ProtectInput is what the API was asked for.
func (Converter) ProtectInput(in api.ProtectInput) broker.ProtectInput { return protectInput(in) }

package azure

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
)

const jitType = "Microsoft.Security/locations/jitNetworkAccessPolicies"

// JITPolicy is a just-in-time policy of Defender for Cloud. It has no etag: whoever writes reads just before and again after.
type JITPolicy struct {
	Resource
	Kind       string `json:"kind"`
	Properties struct {
		ProvisioningState string            `json:"provisioningState"`
		VirtualMachines   []json.RawMessage `json:"virtualMachines"` // may be null
		Requests          []json.RawMessage `json:"requests"`
	} `json:"properties"`
}

// JITMachine is what a policy says of one machine. FACTS 1.1.
type JITMachine struct {
	ID    string    `json:"id"`
	Ports []JITPort `json:"ports"`
}

// JITPort is one port of a machine in a policy.
type JITPort struct {
	Number      int      `json:"number"`
	Protocol    string   `json:"protocol"` // TCP, UDP or *
	Source      string   `json:"allowedSourceAddressPrefix,omitempty"`
	Sources     []string `json:"allowedSourceAddressPrefixes,omitempty"`
	MaxDuration string   `json:"maxRequestAccessDuration"`
}

// JITPolicy reads one policy.
func (c *Client) JITPolicy(ctx context.Context, id string) (JITPolicy, error) {
	p, body, err := one(ctx, c, "just-in-time policy", id, jitType, jitVersion, func(p *JITPolicy) string { return p.ID })
	p.Raw = body
	return p, err
}

// Machine returns what the policy says of a machine, as it was read.
func (p JITPolicy) Machine(vmID string) (json.RawMessage, JITMachine, bool) {
	for _, raw := range p.Properties.VirtualMachines {
		var m JITMachine
		if json.Unmarshal(raw, &m) == nil && EqualID(m.ID, vmID) {
			return raw, m, true
		}
	}
	return nil, JITMachine{}, false
}

// WithMachine returns the policy's machines with this one added, in place of what stood for it. A nil machine takes it out.
func (p JITPolicy) WithMachine(vmID string, machine json.RawMessage) []json.RawMessage {
	out := make([]json.RawMessage, 0, len(p.Properties.VirtualMachines)+1)
	done := machine == nil
	for _, raw := range p.Properties.VirtualMachines {
		var m JITMachine
		if json.Unmarshal(raw, &m) != nil || !EqualID(m.ID, vmID) {
			out = append(out, raw)
		} else if !done {
			out, done = append(out, machine), true
		}
	}
	if !done {
		out = append(out, machine)
	}
	return out
}

// PutJITPolicy replaces the machines of a policy, and sends everything else back as it was read: a PUT carries the whole list, and
// what it leaves out is gone (FACTS 1.1: appendMode is false). A policy without Raw is a new one, of kind Basic.
func (c *Client) PutJITPolicy(ctx context.Context, p JITPolicy, machines []json.RawMessage, guard func() error) error {
	const op = "write just-in-time policy"
	fail := func(err error) error { return &Error{Op: op, Resource: p.ID, Class: Invalid, Err: err} }
	if machines == nil {
		return fail(errors.New("the machines of the policy are not given"))
	}
	list, err := json.Marshal(machines)
	if err != nil {
		return fail(err)
	}
	var body bytes.Buffer
	if len(p.Raw) == 0 {
		fmt.Fprintf(&body, `{"kind":"Basic","properties":{"virtualMachines":%s}}`, list)
	} else if err := jitBody(&body, p.Raw, list); err != nil {
		return fail(err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.OperationTimeout)
	defer cancel()
	return c.send(ctx, op, http.MethodPut, p.ID, "", jitType, jitVersion, body.Bytes(), nil, guard)
}

func jitBody(b *bytes.Buffer, raw, machines []byte) error {
	top, err := members(raw)
	if err != nil {
		return err
	}
	keep := top[:0]
	for _, m := range top {
		switch m.name {
		case "etag", "id", "name", "type":
			continue
		case "properties":
			props, err := members(m.value)
			if err != nil {
				return err
			}
			rest, found := props[:0], false
			for _, p := range props {
				switch p.name {
				case "provisioningState":
					continue
				case "virtualMachines":
					p.value, found = machines, true
				}
				rest = append(rest, p)
			}
			if !found {
				rest = append(rest, member{"virtualMachines", machines})
			}
			var inner bytes.Buffer
			writeObject(&inner, rest)
			m.value = inner.Bytes()
		}
		keep = append(keep, m)
	}
	writeObject(b, keep)
	return nil
}

// DeleteJITPolicy removes a policy. One that is gone is a success.
func (c *Client) DeleteJITPolicy(ctx context.Context, id string) error {
	return c.removeAt(ctx, "delete just-in-time policy", id, jitType, jitVersion)
}

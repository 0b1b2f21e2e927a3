package azure

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
)

const (
	nsgType = "Microsoft.Network/networkSecurityGroups"
	nicType = "Microsoft.Network/networkInterfaces"
)

// PutNSG replaces a whole group, as it was read (NSG) and changed (WithRules), on the condition that nobody has written it
// since: If-Match with its etag, Precondition when somebody has. It waits for Azure's operation to end and returns the group as
// it reads afterwards, with its new etag; that read does not prove that our rules are in force, because another writer may have
// come in between, so the caller looks.
//
// guard, when not nil, is asked immediately before every attempt, retries included, and once more when the body is about to
// leave; its error aborts with class Aborted and is found by errors.Is. It must be quick and may be asked any number of times.
//
// Not safe to repeat blindly: after Precondition, Superseded and UnknownOutcome read the group again and decide again.
func (c *Client) PutNSG(ctx context.Context, n NSG, guard func() error) (NSG, error) {
	const op = "write network security group"
	if n.Etag == "" || len(n.Raw) == 0 {
		return NSG{}, &Error{Op: op, Resource: n.ID, Class: Invalid,
			Err: errors.New("the group was not read from its provider, so that writing it would lose what was not read")}
	}
	body, err := n.MarshalJSON()
	if err != nil {
		return NSG{}, &Error{Op: op, Resource: n.ID, Class: Invalid, Err: err}
	}
	return c.putNSG(ctx, op, n.ID, body, map[string]string{"If-Match": n.Etag}, guard)
}

// CreateNSG creates a group that must not exist yet (If-None-Match: *, which Azure need not honour; a group that was there is
// Conflict or Precondition where it does). n has id, location, tags and rules.
func (c *Client) CreateNSG(ctx context.Context, n NSG, guard func() error) (NSG, error) {
	const op = "create network security group"
	if n.Location == "" || n.Etag != "" {
		return NSG{}, &Error{Op: op, Resource: n.ID, Class: Invalid, Err: errors.New("a new group has a location and no etag")}
	}
	n.Raw = nil
	body, err := n.MarshalJSON()
	if err != nil {
		return NSG{}, &Error{Op: op, Resource: n.ID, Class: Invalid, Err: err}
	}
	return c.putNSG(ctx, op, n.ID, body, map[string]string{"If-None-Match": "*"}, guard)
}

func (c *Client) putNSG(ctx context.Context, op, id string, body []byte, header map[string]string, guard func() error) (NSG, error) {
	ctx, cancel := context.WithTimeout(ctx, c.o.OperationTimeout)
	defer cancel()
	if err := c.put(ctx, op, id, nsgType, body, header, guard); err != nil {
		return NSG{}, err
	}
	n, err := c.NSG(ctx, id)
	if err != nil {
		return NSG{}, &Error{Op: op, Resource: id, Class: UnknownOutcome,
			Err: fmt.Errorf("written, but it could not be read again: %w", err)}
	}
	return n, nil
}

func (c *Client) put(ctx context.Context, op, id, fullType string, body []byte, header map[string]string, guard func() error) error {
	return c.send(ctx, op, http.MethodPut, id, "", fullType, networkVersion, body, header, guard)
}

// send writes to a resource, or to an action below it, and waits until Azure's operation has ended.
func (c *Client) send(ctx context.Context, op, method, id, action, fullType, version string, body []byte, header map[string]string, guard func() error) error {
	parsed, err := ParseID(id)
	if err == nil && !parsed.Is(fullType) {
		err = fmt.Errorf("resource id %q is not of type %s", id, fullType)
	}
	if err != nil {
		return &Error{Op: op, Resource: id, Class: Invalid, Err: err}
	}
	k := &call{op: op, resource: id, subscription: parsed.Subscription, kind: write, method: method,
		url: c.url(id+action, version), body: body, header: header, guard: guard,
		accept: []int{http.StatusOK, http.StatusCreated, http.StatusAccepted}}
	r, err := c.do(ctx, k)
	if err != nil {
		return err
	}
	return c.wait(ctx, k, r)
}

// SetNICNSG puts a group on a network interface, or takes it off when nsgID is empty, on the condition that nobody has written
// the interface since it was read with NIC. All its other fields go back as they were read. It waits and returns the interface
// as it reads afterwards.
func (c *Client) SetNICNSG(ctx context.Context, nic NIC, nsgID string, guard func() error) (NIC, error) {
	const op = "write network interface"
	fail := func(class Class, err error) (NIC, error) {
		return NIC{}, &Error{Op: op, Resource: nic.ID, Class: class, Err: err}
	}
	if nic.Etag == "" || len(nic.Raw) == 0 {
		return fail(Invalid, errors.New("the interface was not read from its provider"))
	}
	if nsgID != "" {
		if _, err := ParseID(nsgID); err != nil {
			return fail(Invalid, err)
		}
	}
	body, err := nicBody(nic.Raw, nsgID)
	if err != nil {
		return fail(Invalid, err)
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.OperationTimeout)
	defer cancel()
	if err := c.put(ctx, op, nic.ID, nicType, body, map[string]string{"If-Match": nic.Etag}, guard); err != nil {
		return NIC{}, err
	}
	out, err := c.NIC(ctx, nic.ID)
	if err != nil {
		return fail(UnknownOutcome, fmt.Errorf("written, but it could not be read again: %w", err))
	}
	return out, nil
}

// nicBody replaces the group of an interface in its body.
func nicBody(raw []byte, nsgID string) ([]byte, error) {
	top, err := members(raw)
	if err != nil {
		return nil, err
	}
	keep := top[:0]
	for _, m := range top {
		if m.name == "etag" {
			continue
		}
		if m.name == "properties" {
			props, err := members(m.value)
			if err != nil {
				return nil, err
			}
			rest := props[:0]
			for _, p := range props {
				if p.name != "networkSecurityGroup" && p.name != "provisioningState" {
					rest = append(rest, p)
				}
			}
			if nsgID != "" {
				ref, err := json.Marshal(SubResource{ID: nsgID})
				if err != nil {
					return nil, err
				}
				rest = append(rest, member{"networkSecurityGroup", ref})
			}
			var b bytes.Buffer
			writeObject(&b, rest)
			m.value = b.Bytes()
		}
		keep = append(keep, m)
	}
	var b bytes.Buffer
	writeObject(&b, keep)
	return b.Bytes(), nil
}

// DeleteRule removes one rule and waits until Azure has. A rule, group or resource group that is gone is a success, so that it
// may be repeated.
func (c *Client) DeleteRule(ctx context.Context, nsgID, ruleName string) error {
	return c.remove(ctx, "delete security rule", nsgID+"/securityRules/"+ruleName, nsgType+"/securityRules")
}

// DeleteNSG removes a group and waits until Azure has. One that is gone is a success. Azure refuses while it is in use.
func (c *Client) DeleteNSG(ctx context.Context, id string) error {
	return c.remove(ctx, "delete network security group", id, nsgType)
}

func (c *Client) remove(ctx context.Context, op, id, fullType string) error {
	return c.removeAt(ctx, op, id, fullType, networkVersion)
}

func (c *Client) removeAt(ctx context.Context, op, id, fullType, version string) error {
	parsed, err := ParseID(id)
	if err == nil && !parsed.Is(fullType) {
		err = fmt.Errorf("resource id %q is not of type %s", id, fullType)
	}
	if err != nil {
		return &Error{Op: op, Resource: id, Class: Invalid, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.OperationTimeout)
	defer cancel()
	k := &call{op: op, resource: id, subscription: parsed.Subscription, kind: remove, method: http.MethodDelete,
		url: c.url(id, version), accept: []int{http.StatusOK, http.StatusAccepted, http.StatusNoContent, http.StatusNotFound}}
	r, err := c.do(ctx, k)
	if err != nil {
		return err
	}
	if r.status == http.StatusNotFound {
		return nil
	}
	return c.wait(ctx, k, r)
}

// wait follows the operation that a write started until it has ended: Azure-AsyncOperation if the reply has it, else Location,
// else the resource's own provisioningState. It honours Retry-After, else looks at Options.PollInterval. FACTS 2.5.
func (c *Client) wait(ctx context.Context, k *call, r *reply) error {
	unknown := func(err error) error {
		return &Error{Op: k.op, Resource: k.resource, Class: UnknownOutcome, Err: err}
	}
	async, err := c.link(r.header.Get("Azure-AsyncOperation"))
	if err != nil {
		return unknown(err)
	}
	location, err := c.link(r.header.Get("Location"))
	if err != nil {
		return unknown(err)
	}
	poll := &call{op: k.op + ": wait for", resource: k.resource, subscription: k.subscription, method: http.MethodGet,
		accept: []int{http.StatusOK, http.StatusCreated, http.StatusAccepted, http.StatusNoContent}}
	switch {
	case async != "":
		poll.url = async
	case location != "" && r.status == http.StatusAccepted:
		poll.url = location
	case k.kind == remove:
		if r.status == http.StatusAccepted {
			return unknown(errors.New("the reply names no operation to wait for"))
		}
		return nil
	case provisioning(r.body) == "":
		return nil
	default:
		poll.url = k.url
	}
	after := retryAfter(r.header, c.clock.Now())
	if poll.url == k.url && ended(provisioning(r.body)) {
		return c.outcome(k, provisioning(r.body), r)
	}
	for {
		if after <= 0 {
			after = c.o.PollInterval
		}
		select {
		case <-c.clock.After(after):
		case <-ctx.Done():
			return unknown(fmt.Errorf("the operation was accepted and had not ended: %w", ctx.Err()))
		}
		p, err := c.do(ctx, poll)
		switch {
		case Classify(err) == NotFound && k.kind == remove && poll.url == location:
			return nil
		case Classify(err) == Transient && ctx.Err() == nil:
			after = max(RetryAfter(err), c.o.PollInterval) // the operation goes on whether or not we can look
			continue
		case err != nil:
			return unknown(err)
		}
		after = retryAfter(p.header, c.clock.Now())
		if poll.url == location && poll.url != async {
			if p.status != http.StatusAccepted {
				return nil
			}
			continue
		}
		state := provisioning(p.body)
		if poll.url == async {
			state = operationStatus(p.body)
		}
		if state == "" {
			if p.status == http.StatusAccepted {
				continue
			}
			return unknown(errors.New("the operation's reply has no status"))
		}
		if ended(state) {
			return c.outcome(k, state, p)
		}
	}
}

func ended(state string) bool {
	switch strings.ToLower(state) {
	case "succeeded", "failed", "canceled", "cancelled":
		return true
	}
	return false
}

// outcome turns the end of an operation into an error or none.
func (c *Client) outcome(k *call, state string, r *reply) error {
	switch strings.ToLower(state) {
	case "succeeded":
		return nil
	case "canceled", "cancelled":
		e := c.responseError(k, r)
		e.Class, e.After = Superseded, 0
		return e
	}
	e := c.responseError(k, r)
	e.After = 0
	if e.Class == Busy || e.Class == Throttled {
		e.Class = Transient
	}
	if e.Message == "" {
		e.Message = "the operation ended " + state
	}
	return e
}

func operationStatus(body []byte) string {
	var op struct {
		Status string `json:"status"`
	}
	_ = json.Unmarshal(body, &op) // no status is handled by the caller
	return op.Status
}

func provisioning(body []byte) string {
	var res struct {
		Properties struct {
			ProvisioningState string `json:"provisioningState"`
		} `json:"properties"`
	}
	_ = json.Unmarshal(body, &res) // no state is handled by the caller
	return res.Properties.ProvisioningState
}

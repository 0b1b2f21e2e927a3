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
	vmType       = "Microsoft.Compute/virtualMachines"
	scaleSetType = "Microsoft.Compute/virtualMachineScaleSets"
	instanceType = scaleSetType + "/virtualMachines"
)

// ScaleSet is a virtual machine scale set, with the fields that Curfew reads. Raw is the whole body.
type ScaleSet struct {
	Resource
	Properties struct {
		ProvisioningState string `json:"provisioningState"`
		OrchestrationMode string `json:"orchestrationMode"` // Uniform or Flexible; absent is Uniform
		UpgradePolicy     *struct {
			Mode string `json:"mode"` // Automatic, Manual, Rolling
		} `json:"upgradePolicy"`
		VirtualMachineProfile *struct {
			Priority               string          `json:"priority"`
			ScheduledEventsProfile json.RawMessage `json:"scheduledEventsProfile"`
		} `json:"virtualMachineProfile"`
	} `json:"properties"`
}

// Flexible tells whether the set's instances are virtual machines of their own.
func (s ScaleSet) Flexible() bool {
	return strings.EqualFold(s.Properties.OrchestrationMode, "Flexible")
}

// Instance is an instance of a Uniform scale set.
type Instance struct {
	Resource
	InstanceID string `json:"instanceId"`
	Properties struct {
		LatestModelApplied     *bool           `json:"latestModelApplied"`
		ProvisioningState      string          `json:"provisioningState"`
		ScheduledEventsProfile json.RawMessage `json:"scheduledEventsProfile"`
	} `json:"properties"`
}

// EventsProfile is where a machine or the model of a scale set keeps its scheduled events, with what a conditional write needs.
type EventsProfile struct {
	ID      string // of the machine or the set
	Etag    string
	Profile json.RawMessage // scheduledEventsProfile as it was read; nil: none
}

// ScaleSet reads a scale set.
func (c *Client) ScaleSet(ctx context.Context, id string) (ScaleSet, error) {
	s, body, err := one(ctx, c, "scale set", id, scaleSetType, computeVersion, func(s *ScaleSet) string { return s.ID })
	s.Raw = body
	return s, err
}

// Events returns the scheduled events of the set's model. ok is false for a set without a model.
func (s ScaleSet) Events() (EventsProfile, bool) {
	p := s.Properties.VirtualMachineProfile
	if p == nil {
		return EventsProfile{}, false
	}
	return EventsProfile{ID: s.ID, Etag: s.Etag, Profile: p.ScheduledEventsProfile}, true
}

// VMEvents reads the scheduled events of one machine.
func (c *Client) VMEvents(ctx context.Context, id string) (EventsProfile, error) {
	type machine struct {
		Resource
		Properties struct {
			ScheduledEventsProfile json.RawMessage `json:"scheduledEventsProfile"`
		} `json:"properties"`
	}
	m, _, err := one(ctx, c, "virtual machine", id, vmType, computeVersion, func(m *machine) string { return m.ID })
	return EventsProfile{ID: m.ID, Etag: m.Etag, Profile: m.Properties.ScheduledEventsProfile}, err
}

// Instances lists the instances of a Uniform scale set, all pages.
func (c *Client) Instances(ctx context.Context, setID string) ([]Instance, error) {
	parsed, err := ParseID(setID)
	if err == nil && !parsed.Is(scaleSetType) {
		err = fmt.Errorf("resource id %q is not of type %s", setID, scaleSetType)
	}
	if err != nil {
		return nil, &Error{Op: "list instances", Resource: setID, Class: Invalid, Err: err}
	}
	return list[Instance](ctx, c, "instances", parsed.Subscription, setID+"/virtualMachines", computeVersion)
}

// WithTermination returns a scheduledEventsProfile in which termination is announced, or not, with this notice (ISO 8601, "" leaves it
// out). Every other member, known to us or not, is as it was read: osImageNotificationProfile stands beside it, and Azure may add more.
func WithTermination(profile json.RawMessage, enable bool, notBefore string) (json.RawMessage, error) {
	var ms []member
	if len(profile) > 0 && string(profile) != "null" {
		var err error
		if ms, err = members(profile); err != nil {
			return nil, fmt.Errorf("scheduledEventsProfile: %w", err)
		}
	}
	var inner []member
	at := -1
	for i, m := range ms {
		if m.name != "terminateNotificationProfile" {
			continue
		}
		at = i
		if string(m.value) != "null" {
			was, err := members(m.value)
			if err != nil {
				return nil, fmt.Errorf("terminateNotificationProfile: %w", err)
			}
			for _, w := range was {
				if w.name != "enable" && w.name != "notBeforeTimeout" {
					inner = append(inner, w)
				}
			}
		}
	}
	on, _ := json.Marshal(enable)
	inner = append(inner, member{"enable", on})
	if notBefore != "" {
		v, err := json.Marshal(notBefore)
		if err != nil {
			return nil, err
		}
		inner = append(inner, member{"notBeforeTimeout", v})
	}
	var b bytes.Buffer
	writeObject(&b, inner)
	if at < 0 {
		ms = append(ms, member{"terminateNotificationProfile", b.Bytes()})
	} else {
		ms[at].value = b.Bytes()
	}
	var out bytes.Buffer
	writeObject(&out, ms)
	return out.Bytes(), nil
}

// PatchEvents replaces the scheduled events of a machine or of a set's model, and nothing else, on the condition that nobody has
// written the resource since: If-Match with its etag (the spec declares it for PATCH; recorded replies carry etags). A PATCH and not a
// whole PUT, because what a GET shows of a set is not all of it: secrets are left out. A replica that sends no etag is written without
// the condition. It waits until Azure's operation has ended.
//
// After Precondition, Superseded and UnknownOutcome read again and decide again.
func (c *Client) PatchEvents(ctx context.Context, e EventsProfile, guard func() error) error {
	const op = "write scheduled events of"
	full := vmType
	if id, err := ParseID(e.ID); err == nil && id.Is(scaleSetType) {
		full = scaleSetType
	}
	var inner any = map[string]any{"scheduledEventsProfile": e.Profile}
	if len(e.Profile) == 0 {
		return &Error{Op: op, Resource: e.ID, Class: Invalid, Err: errors.New("there is nothing to write")}
	}
	if full == scaleSetType {
		inner = map[string]any{"virtualMachineProfile": inner}
	}
	body, err := json.Marshal(map[string]any{"properties": inner})
	if err != nil {
		return &Error{Op: op, Resource: e.ID, Class: Invalid, Err: err}
	}
	header := map[string]string{}
	if e.Etag != "" {
		header["If-Match"] = e.Etag
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.OperationTimeout)
	defer cancel()
	return c.send(ctx, op, http.MethodPatch, e.ID, "", full, computeVersion, body, header, guard)
}

// UpgradeInstances brings the named instances of a Uniform set to its model (manualUpgrade), and waits until Azure has. It may be
// repeated: an instance on the latest model stays as it is.
func (c *Client) UpgradeInstances(ctx context.Context, setID string, instanceIDs []string, guard func() error) error {
	const op = "upgrade instances of"
	if len(instanceIDs) == 0 {
		return &Error{Op: op, Resource: setID, Class: Invalid, Err: errors.New("no instances are named")}
	}
	body, err := json.Marshal(map[string][]string{"instanceIds": instanceIDs})
	if err != nil {
		return &Error{Op: op, Resource: setID, Class: Invalid, Err: err}
	}
	ctx, cancel := context.WithTimeout(ctx, c.o.OperationTimeout)
	defer cancel()
	return c.send(ctx, op, http.MethodPost, setID, "/manualupgrade", scaleSetType, computeVersion, body, nil, guard)
}

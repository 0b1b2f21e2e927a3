package sim

import (
	"fmt"
	"net/http"
)

// armError is an error as ARM answers it: {"error":{"code","message","details"}}.
type armError struct {
	Status  int
	Code    string
	Message string
	Target  string
	Details []armError
	Header  http.Header
}

func (e *armError) Error() string { return e.Code + ": " + e.Message }

func (e *armError) body() map[string]any {
	b := map[string]any{"code": e.Code, "message": e.Message}
	if e.Target != "" {
		b["target"] = e.Target
	}
	if e.Details != nil {
		list := []any{}
		for _, d := range e.Details {
			list = append(list, d.body())
		}
		b["details"] = list
	}
	return b
}

func (e *armError) answer() *answer {
	a := &answer{status: e.Status, header: http.Header{}, body: mustJSON(map[string]any{"error": e.body()}), code: e.Code}
	for k, v := range e.Header {
		a.header[k] = v
	}
	if e.Status == 404 {
		a.header.Set("X-Ms-Failure-Cause", "gateway")
	}
	return a
}

func badRequest(code, format string, args ...any) *armError {
	return &armError{Status: 400, Code: code, Message: fmt.Sprintf(format, args...)}
}

func notFound(t target) *armError {
	if t.group == "" {
		return &armError{Status: 404, Code: "ResourceNotFound", Message: fmt.Sprintf("The Resource '%s' was not found.", t.id())}
	}
	short := t.ns
	for i := range t.types {
		short += "/" + t.types[i]
		if i < len(t.names) {
			short += "/" + t.names[i]
		}
	}
	return &armError{Status: 404, Code: "ResourceNotFound", Message: fmt.Sprintf("The Resource '%s' under resource group '%s' was not found. For more details please go to https://aka.ms/ARMResourceNotFoundFix", short, t.group)}
}

// partNotFound is how the network provider itself, not ARM before it, misses a rule or subnet (recorded for subnets).
func partNotFound(id string) *armError {
	return &armError{Status: 404, Code: "NotFound", Message: fmt.Sprintf("Resource %s not found.", id), Details: []armError{}}
}

func noGroup(name string) *armError {
	return &armError{Status: 404, Code: "ResourceGroupNotFound", Message: fmt.Sprintf("Resource group '%s' could not be found.", name)}
}

func noSubscription(id string) *armError {
	return &armError{Status: 404, Code: "SubscriptionNotFound", Message: fmt.Sprintf("The subscription '%s' could not be found.", id)}
}

// anotherOperation is the 429 that is no throttling (FACTS 2.5): no Retry-After, quota left.
func anotherOperation(opName, opID, resource string) *armError {
	return &armError{Status: 429, Code: "RetryableError", Message: "A retryable error occurred.", Details: []armError{{
		Code:    "RetryableErrorDueToAnotherOperation",
		Message: fmt.Sprintf("Operation %s (%s) is updating resource %s. The call can be retried in 11 seconds.", opName, opID, resource),
	}}}
}

func superseded(name, id, byName, byID string) *armError {
	return &armError{Code: "Canceled", Message: "Operation was canceled.", Details: []armError{{
		Code:    "CanceledAndSupersededDueToAnotherOperation",
		Message: fmt.Sprintf("Operation %s (%s) was canceled and superseded by operation %s (%s).", name, id, byName, byID),
	}}}
}

func throttled(kind, sub, principal string, wait string) *armError {
	e := &armError{Status: 429, Code: "SubscriptionRequestsThrottled",
		Message: fmt.Sprintf("Number of '%s' requests for subscription '%s' actor '%s' exceeded. Please try again after '%s' seconds.", kind, sub, principal, wait)}
	if wait != "" {
		e.Header = http.Header{"Retry-After": {wait}}
	}
	return e
}

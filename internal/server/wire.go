package server

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/danielgtaylor/huma/v2"

	"github.com/curfew-jit/curfew/internal/access"
)

// wire is a body of type T. huma checks its shape against T's schema, so that every unknown name and wrong type is reported at once;
// an error in a value's own syntax is kept as it is, with its hint, which huma would turn into text.
type wire[T any] struct {
	value T
	fault error
}

// Schema gives T's.
func (wire[T]) Schema(r huma.Registry) *huma.Schema { return r.Schema(reflect.TypeFor[T](), true, "") }

// UnmarshalJSON never fails: what is wrong is told by read.
func (w *wire[T]) UnmarshalJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields()
	w.fault = dec.Decode(&w.value)
	return nil
}

// read returns the value, or what is wrong with it.
func (w *wire[T]) read() (T, error) {
	var zero T
	if w == nil {
		return zero, nil
	}
	if w.fault == nil {
		return w.value, nil
	}
	var e *access.Error
	if errors.As(w.fault, &e) {
		return zero, e
	}
	return zero, access.Errorf(access.CodeInvalid, "the input is wrong: %s", w.fault).WithHint("the fields of this call are described in /openapi.yaml")
}

// answer is an output with a body.
type answer[T any] struct{ Body T }

func ok[T any](v T) *answer[T] { return &answer[T]{Body: v} }

// register adds an operation. The handler is given the caller, and its error becomes a problem.
func register[I, O any](a huma.API, op huma.Operation, h func(context.Context, access.Caller, *I) (*O, error)) {
	op.RejectUnknownQueryParameters = true
	op.BodyReadTimeout = -1 // the body is in memory by now; a deadline set here would end the call itself
	op.Security = []map[string][]string{{"bearer": {}}}
	if op.RequestBody == nil && op.Method == "POST" {
		op.RequestBody = &huma.RequestBody{Content: map[string]*huma.MediaType{}}
	}
	huma.Register(a, op, func(ctx context.Context, in *I) (*O, error) {
		out, err := h(ctx, exchangeOf(ctx).caller, in)
		if err != nil {
			return nil, problem(ctx, err)
		}
		return out, nil
	})
}

// strictJSON is huma's JSON format, except that a name that stands twice in one object is refused: readers differ in which one counts.
var strictJSON = huma.Format{
	Marshal: huma.DefaultJSONFormat.Marshal,
	Unmarshal: func(b []byte, v any) error {
		if err := checkJSON(b); err != nil {
			return err
		}
		return json.Unmarshal(b, v)
	},
}

// maxDepth bounds nesting, far above what any input needs.
const maxDepth = 32

func checkJSON(b []byte) error {
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.UseNumber()
	if err := checkValue(dec, 0); err != nil {
		if errors.Is(err, io.EOF) {
			return io.ErrUnexpectedEOF
		}
		return err
	}
	if _, err := dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the JSON value")
	}
	return nil
}

func checkValue(dec *json.Decoder, depth int) error {
	if depth > maxDepth {
		return errors.New("the JSON value is nested too deeply")
	}
	t, err := dec.Token()
	if err != nil {
		return err
	}
	d, _ := t.(json.Delim)
	switch d {
	case '{':
		seen := map[string]bool{}
		for dec.More() {
			k, err := dec.Token()
			if err != nil {
				return err
			}
			name, _ := k.(string)
			if seen[strings.ToLower(name)] {
				return fmt.Errorf("the field %q stands there twice", name)
			}
			seen[strings.ToLower(name)] = true
			if err := checkValue(dec, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	case '[':
		for dec.More() {
			if err := checkValue(dec, depth+1); err != nil {
				return err
			}
		}
		_, err = dec.Token()
	}
	return err
}

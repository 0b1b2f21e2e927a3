package sim

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"go.yaml.in/yaml/v4"
)

// Schedule is faults that come by themselves: each at its time after the arming, again and again, or with a probability.
type Schedule struct {
	Seed   uint64 // of the probabilities: the same seed and the same requests meet the same faults
	Faults []Fault
}

// ParseSchedule reads a schedule: YAML (or JSON) of the form {seed, faults: [...]}, or JSON lines with a fault each. The fields are those
// of the control API; durations are "90s" or seconds. What is unknown is an error that names the fault.
func ParseSchedule(data []byte) (Schedule, error) {
	var file struct {
		Seed   uint64            `json:"seed"`
		Faults []json.RawMessage `json:"faults"`
	}
	if lines, ok := jsonLines(data); ok {
		file.Faults = lines
	} else {
		var tree any
		if err := yaml.Unmarshal(data, &tree); err != nil {
			return Schedule{}, fmt.Errorf("reading the faults: %w", err)
		}
		raw, err := json.Marshal(tree)
		if err != nil {
			return Schedule{}, fmt.Errorf("reading the faults: %w", err)
		}
		if bytes.HasPrefix(raw, []byte("[")) {
			err = json.Unmarshal(raw, &file.Faults)
		} else {
			err = strict(raw, &file)
		}
		if err != nil {
			return Schedule{}, fmt.Errorf("reading the faults: want {seed, faults: [...]}: %w", err)
		}
	}
	if len(file.Faults) == 0 {
		return Schedule{}, errors.New("reading the faults: the file holds none")
	}
	out := Schedule{Seed: file.Seed}
	for i, raw := range file.Faults {
		f, err := decodeFault(raw)
		if err == nil {
			_, err = f.compile()
		}
		if err != nil {
			return Schedule{}, fmt.Errorf("reading the faults: fault %d: %w", i+1, err)
		}
		out.Faults = append(out.Faults, f)
	}
	return out, nil
}

// jsonLines tells whether data is two or more JSON objects one after another, or a single one that is a fault.
func jsonLines(data []byte) ([]json.RawMessage, bool) {
	dec := json.NewDecoder(bytes.NewReader(data))
	var list []json.RawMessage
	for {
		var raw json.RawMessage
		err := dec.Decode(&raw)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil || len(raw) == 0 || raw[0] != '{' {
			return nil, false
		}
		list = append(list, raw)
	}
	var one struct {
		Kind string `json:"kind"`
	}
	return list, len(list) > 1 || len(list) == 1 && json.Unmarshal(list[0], &one) == nil && one.Kind != ""
}

func decodeFault(raw []byte) (Fault, error) {
	f := faultJSON{Fault: &Fault{}}
	if err := strict(raw, &f); err != nil {
		return Fault{}, err
	}
	f.Fault.RetryAfter, f.Fault.Delay, f.Fault.After, f.Fault.For = time.Duration(f.RetryAfter), time.Duration(f.Delay), time.Duration(f.After), time.Duration(f.For)
	f.Fault.Every, f.Fault.Skew = time.Duration(f.Every), time.Duration(f.Skew)
	return *f.Fault, nil
}

func encodeFault(f *Fault) faultJSON {
	return faultJSON{Fault: f, RetryAfter: jsonDuration(f.RetryAfter), Delay: jsonDuration(f.Delay), After: jsonDuration(f.After), For: jsonDuration(f.For), Every: jsonDuration(f.Every), Skew: jsonDuration(f.Skew)}
}

// Arm arms the faults of a schedule, whose times count from now on the simulated clock.
func (s *Sim) Arm(sch Schedule) error {
	for i, f := range sch.Faults {
		if _, err := s.arm(f, rand.New(rand.NewPCG(sch.Seed, uint64(i)))); err != nil {
			return fmt.Errorf("fault %d: %w", i+1, err)
		}
	}
	return nil
}

// due tells whether a fault is in force at a time: from After on, for For, and again every Every. A new round begins to count anew.
func (f *fault) due(now time.Time) bool {
	since := now.Sub(f.armed) - f.After
	if since < 0 {
		return false
	}
	if f.Every > 0 {
		if round := int64(since / f.Every); round != f.round {
			f.round, f.hits, f.seen = round, 0, 0
		}
		since %= f.Every
	}
	return f.For == 0 || since < f.For
}

// byClock: an outside hand that names its resource and no request acts at its time, not when a request comes.
func (f *Fault) byClock() bool {
	return f.Kind == "edit" && f.Edit != nil && f.Edit.Resource != "" && f.Method == "" && f.PathPattern == "" && f.BodyPattern == "" && (f.After > 0 || f.Every > 0)
}

func (s *Sim) actByClockLocked(f *fault, at time.Time) {
	s.atLocked(at, func() {
		armed := false
		for _, x := range s.faults {
			armed = armed || x == f
		}
		if !armed || f.Count > 0 && f.struck >= f.Count {
			return
		}
		f.matched++
		if f.matched > f.Skip && f.happens() {
			f.struck++
			if err := s.applyEditLocked(f.Edit, ""); err != nil {
				s.log.Warn("the outside hand failed", "fault", f.ID, "resource", f.Edit.Resource, "error", err)
			}
		}
		if f.Every > 0 {
			next := at.Add(f.Every)
			if now := s.nowLocked(); next.Before(now.Add(-1000 * f.Every)) {
				next = now // a clock that jumped far is not followed step by step
			}
			s.actByClockLocked(f, next)
		}
	})
}

func (f *fault) happens() bool {
	return f.Probability == 0 || f.rng.Float64() < f.Probability
}

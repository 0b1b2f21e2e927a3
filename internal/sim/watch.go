package sim

// Revision counts the changes of resources since New: every body or rule list that was stored, hidden again or removed, by whomever.
// Equal revisions mean equal resources (apart from provisioning states and etags).
func (s *Sim) Revision() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.settleLocked()
	return s.revision
}

// Watch returns a channel that holds a value after changes, however many, and what ends the watching. A change is visible before it is
// told. Like everything here, writes that wait for the simulated clock (faults "late") happen when somebody looks.
func (s *Sim) Watch() (changed <-chan struct{}, stop func()) {
	ch := make(chan struct{}, 1)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.watchers == nil {
		s.watchers = map[chan struct{}]struct{}{}
	}
	s.watchers[ch] = struct{}{}
	return ch, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		delete(s.watchers, ch)
	}
}

// changedLocked tells the watchers, without waiting for any.
func (s *Sim) changedLocked() {
	s.revision++
	for ch := range s.watchers {
		select {
		case ch <- struct{}{}:
		default: // it knows already
		}
	}
}

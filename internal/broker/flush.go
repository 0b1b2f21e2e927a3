package broker

import (
	"context"
	"encoding/json"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/enforce"
)

// A rule that is removed lets nobody in any more; a connection that is open outlives it, unless the group applies changes of its rules
// to open connections. That is a property of the whole group and somebody else's, so that it is switched on only for as long as an
// access there wants it, and what it was is remembered before (P3).

// Flush says whether a place should apply changes of its rules to open connections.
func (b *Broker) Flush(place string) enforce.Flush {
	gs, _ := b.index.at(place)
	for _, g := range gs {
		if g.HardClose && g.State.Live() { // until it is seen to be shut: the write that shuts it is the one that matters
			return enforce.FlushOn
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ours := b.flushed[key(place)]; ours {
		return enforce.FlushBack
	}
	return enforce.FlushAsIs
}

// NoteFlush remembers, before it is done, that a place is switched over by us. It may be repeated.
func (b *Broker) NoteFlush(ctx context.Context, place string) error {
	doc, err := json.Marshal(place)
	if err != nil {
		return err
	}
	err = b.update(ctx, func(tx Tx) error {
		if _, err := tx.Record(RecordFlush, key(place)); access.CodeOf(err) != access.CodeNotFound {
			return err // it is noted already, or cannot be read
		}
		if err := tx.PutRecord(Record{Kind: RecordFlush, ID: key(place), Doc: doc}); err != nil {
			return err
		}
		_, err := tx.Append(b.entry(system, "nsg.flush", audit.Intent, place, "changes of the rules of %s end open connections that they no longer allow, as long as an access there wants it", lastPart(place)))
		return err
	})
	if err == nil {
		b.mu.Lock()
		b.flushed[key(place)] = place
		b.mu.Unlock()
	}
	return err
}

// DropFlush forgets a place that is seen to be as it was.
func (b *Broker) DropFlush(ctx context.Context, place string) {
	err := b.update(ctx, func(tx Tx) error {
		if err := tx.DropRecord(RecordFlush, key(place)); err != nil {
			return err
		}
		_, err := tx.Append(b.entry(system, "nsg.flush", audit.Done, place, "changes of the rules of %s leave open connections alone again", lastPart(place)))
		return err
	})
	if err != nil {
		b.log.Warn("a group whose connections are left alone again could not be noted", "place", place, "error", err)
		return
	}
	b.mu.Lock()
	delete(b.flushed, key(place))
	b.mu.Unlock()
}

func (b *Broker) reloadFlushed(ctx context.Context) error {
	out := map[string]string{}
	err := b.view(ctx, func(tx Tx) error {
		rs, err := tx.Records(RecordFlush, "")
		for _, r := range rs {
			var place string
			if json.Unmarshal(r.Doc, &place) == nil {
				out[r.ID] = place
			}
		}
		return err
	})
	if err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.flushed = out
	return nil
}

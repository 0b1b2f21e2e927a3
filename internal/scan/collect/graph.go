package collect

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"hash/maphash"
	"iter"
	"slices"
	"strings"
	"sync"

	"github.com/curfew-jit/curfew/internal/azure"
)

// errGraph says that Resource Graph did not answer at all.
var errGraph = errors.New("Resource Graph does not answer")

// graphTypes are the types that are asked of Resource Graph: network managers only tell whether there are any.
var graphTypes = append(slices.Clone(types), managerType)

// Pages follow one another: each names the next. So the question is put in parts, of which several are read at once; each part costs a
// page that is not full, so that there are no more than are of use.
const maxParts = 8 // parts that are read at once

// partRows are worth a part of their own. Tests have smaller estates.
var partRows = 4000

// part of the question: some subscriptions, and some types of them.
type part struct {
	Subscriptions []string `json:"subscriptions"`
	Types         []string `json:"types"`
	Rows          int      `json:"rows"` // as counted before, 0 where they were not
}

// graph reads everything from Resource Graph. A part that fails is read from the resource providers instead.
func (r *run) graph(ctx context.Context) error {
	parts, err := r.parts(ctx)
	if err != nil {
		return err
	}
	total := 0
	for _, p := range parts {
		total += p.Rows
	}
	r.count(func(p *Progress) { p.RowsTotal += total })
	type failure struct {
		part part
		read seen
		err  error
	}
	var mu sync.Mutex
	var failed []failure
	var state error
	var wg sync.WaitGroup
	slots := make(chan struct{}, maxParts)
	for i, p := range parts {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			read, err := r.part(ctx, i, p)
			if err == nil {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			if errors.As(err, new(*stateError)) {
				state = cmp.Or(state, err)
				return
			}
			failed = append(failed, failure{p, read, err})
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if state != nil {
		return state
	}
	if len(failed) == len(parts) {
		r.kind = "arm"
	}
	for _, f := range failed {
		r.note("Resource Graph failed (%s), so that the resource providers of %d subscriptions were asked instead", r.gap("", "", "", "", f.err).Reason, len(f.part.Subscriptions))
		kinds := slices.DeleteFunc(slices.Clone(f.part.Types), func(k string) bool { return k == managerType })
		r.lists(ctx, f.part.Subscriptions, kinds, f.read)
	}
	return nil
}

// parts divides the question, or takes the division of the scan that is resumed.
func (r *run) parts(ctx context.Context) ([]part, error) {
	if r.State != nil {
		old, err := r.State.open(r.question(), r.Clock.Now())
		if err != nil {
			return nil, err
		}
		if old != nil {
			r.note("resuming the scan of %s: %d pages are at hand", r.State.started.Format("15:04:05 MST"), r.State.pages())
			return old, nil
		}
	}
	counts := map[string]int{}
	for batch := range chunks(r.visible, azure.GraphSubscriptions) {
		p, err := r.Client.GraphPage(ctx, azure.GraphQuery{Query: countQuery(graphTypes), Subscriptions: batch}, "")
		if err == nil && p.Next != "" {
			err = errors.New("the counts of one batch of subscriptions have a second page")
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			r.note("Resource Graph does not answer (%s), so that the resource providers were asked instead", r.gap("", "", "", "", err).Reason)
			return nil, errGraph
		}
		for _, row := range p.Rows {
			var c struct {
				Subscription string `json:"subscriptionId"`
				Resources    int    `json:"resources"`
			}
			if json.Unmarshal(row, &c) == nil { // it is for the division and the estimate alone
				counts[strings.ToLower(c.Subscription)] = c.Resources
			}
		}
	}
	parts := divide(r.visible, counts)
	if r.State != nil {
		if err := r.State.begin(r.question(), parts, r.Clock.Now()); err != nil {
			return nil, err
		}
	}
	return parts, nil
}

// divide makes parts of about the same number of rows. Every subscription is in one, also where it was not counted: what came since is
// not left out.
func divide(subscriptions []string, counts map[string]int) []part {
	total := 0
	for _, n := range counts {
		total += n
	}
	n := max(min(maxParts, total/partRows), (len(subscriptions)+azure.GraphSubscriptions-1)/azure.GraphSubscriptions, 1)
	if len(subscriptions) < n {
		return divideTypes(subscriptions, counts)
	}
	order := slices.Clone(subscriptions)
	slices.SortStableFunc(order, func(a, b string) int { return cmp.Compare(counts[strings.ToLower(b)], counts[strings.ToLower(a)]) })
	parts := make([]part, n)
	for _, s := range order { // the largest first, each to the part that has least
		least := -1
		for i := range parts {
			if len(parts[i].Subscriptions) < azure.GraphSubscriptions && (least < 0 || parts[i].Rows < parts[least].Rows ||
				parts[i].Rows == parts[least].Rows && len(parts[i].Subscriptions) < len(parts[least].Subscriptions)) {
				least = i
			}
		}
		parts[least].Subscriptions = append(parts[least].Subscriptions, s)
		parts[least].Rows += counts[strings.ToLower(s)]
	}
	for i := range parts {
		slices.Sort(parts[i].Subscriptions)
		parts[i].Types = graphTypes
	}
	return parts
}

// divideTypes is for few subscriptions with much in them: machines, interfaces and the rest apart, which are about as many.
func divideTypes(subscriptions []string, counts map[string]int) []part {
	var out []part
	rest := slices.DeleteFunc(slices.Clone(graphTypes), func(k string) bool { return k == vmType || k == nicType })
	for _, s := range subscriptions {
		n := counts[strings.ToLower(s)]
		if n < partRows {
			out = append(out, part{[]string{s}, graphTypes, n})
			continue
		}
		out = append(out, part{[]string{s}, []string{vmType}, n / 3}, part{[]string{s}, []string{nicType}, n / 3}, part{[]string{s}, rest, n - n/3*2})
	}
	return out
}

// part reads one part to its end. It returns what was handed to the sink, also with an error.
func (r *run) part(ctx context.Context, number int, p part) (seen, error) {
	read := newSeen()
	q := azure.GraphQuery{Query: query(p.Types, false), Subscriptions: p.Subscriptions}
	token, whole := "", false
	fetch := func() (azure.GraphPage, error) {
		page, err := r.Client.GraphPage(ctx, q, token)
		if err == nil && page.Limited {
			err = errors.New("it looks into the first 10,000 subscriptions alone")
		}
		return page, err
	}
	var page azure.GraphPage
	var err error
	fetched := false
	if kept := r.State.of(number); kept.pages > 0 {
		if token, whole = kept.next, kept.whole; whole {
			q.Query = query(p.Types, true)
		}
		// A token may have run out: the next page is read before what was kept is believed.
		if token != "" {
			if page, err = fetch(); err != nil && azure.Classify(err) != azure.Invalid {
				return read, err
			}
			fetched = err == nil
		}
		if err != nil {
			r.note("Azure does not go on where the interrupted scan stopped, so that %d pages are read again", kept.pages)
			r.State.forget(number)
			token, whole = "", false
			q.Query = query(p.Types, false)
		} else {
			if err := r.State.read(number, func(rows []byte) error {
				n := 0
				err := azure.Elements(rows, func(row []byte) error {
					r.row(row, read)
					n++
					return ctx.Err()
				})
				r.count(func(p *Progress) { p.Rows += n; p.Resumed += n })
				return err
			}); err != nil {
				return read, err
			}
			if token == "" {
				return read, nil
			}
		}
	}
	for {
		if !fetched {
			page, err = fetch()
			if token == "" && !whole && azure.Classify(err) == azure.Invalid {
				// A cloud that lags behind may not know a function of the short question.
				r.note("Resource Graph does not take the short question, so that it is asked for whole bodies: %v", err)
				whole, q.Query = true, query(p.Types, true)
				page, err = fetch()
			}
		}
		fetched = false
		if err != nil {
			return read, err
		}
		if err := r.State.append(number, page.Rows, page.Next, whole); err != nil {
			return read, err
		}
		for _, row := range page.Rows {
			if err := ctx.Err(); err != nil {
				return read, err
			}
			r.row(row, read)
		}
		r.count(func(p *Progress) { p.Rows += len(page.Rows) })
		if token = page.Next; token == "" {
			return read, nil
		}
	}
}

func (r *run) row(row []byte, read seen) {
	read.add(row)
	r.add(row, strings.ToLower(azure.Peek(row, "type")), "")
}

// seen remembers ids by two hashes of theirs: of hundreds of thousands, that two are the same by chance will not happen.
type seen map[[2]uint64]struct{}

var seeds = [2]maphash.Seed{maphash.MakeSeed(), maphash.MakeSeed()}

func newSeen() seen { return seen{} }

func seenKey(body []byte) [2]uint64 {
	id := azure.Key(azure.Peek(body, "id"))
	return [2]uint64{maphash.String(seeds[0], id), maphash.String(seeds[1], id)}
}

func (s seen) add(body []byte) { s[seenKey(body)] = struct{}{} }

func (s seen) has(body []byte) bool {
	if len(s) == 0 {
		return false
	}
	_, ok := s[seenKey(body)]
	return ok
}

// chunks divides a list.
func chunks(list []string, n int) iter.Seq[[]string] { return slices.Chunk(list, n) }

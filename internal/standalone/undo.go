package standalone

import (
	"bytes"
	"cmp"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/notify"
	"github.com/curfew-jit/curfew/internal/scan"
)

// undoVersion is the form of the file that this program writes. A file of another form is refused and left alone.
const undoVersion = 1

// maxUndo bounds what is read as an undo file: a thousand protections with an original of 4 KiB each are a sixteenth of it.
const maxUndo = 64 << 20

const undoNote = "Undo file of curfew protect --standalone. It holds the rules of others that were replaced with consent, as they were: " +
	"keep it, and give it to every protect and unprotect of these machines. Each original is the text of the rule as Azure gave it."

// document is the file.
type document struct {
	Note         string              `json:"note"`
	Version      int                 `json:"version"`
	Installation string              `json:"installation"`
	Protections  []access.Protection `json:"protections"`
	Originals    []original          `json:"originals"` // of what stands replaced
	Past         []original          `json:"past"`      // of what was put back, or could not be: an original never leaves the file
}

// original is a replaced rule. Of Text and Base64 one is set: the second only where the rule is not valid UTF-8, which JSON cannot
// carry byte for byte.
type original struct {
	VM     string    `json:"vm"` // of the protection that it was replaced for
	NSG    string    `json:"nsg"`
	Rule   string    `json:"rule"`
	By     string    `json:"by"`
	Text   string    `json:"original,omitempty"`
	Base64 string    `json:"original_base64,omitempty"`
	Kept   time.Time `json:"kept_at"`
	Until  time.Time `json:"until,omitzero"`
}

func newOriginal(vm string, r access.Replacement) original {
	o := original{VM: vm, NSG: r.NSG, Rule: r.Rule, By: r.By, Text: string(r.Original)}
	if !utf8.Valid(r.Original) {
		o.Text, o.Base64 = "", base64.StdEncoding.EncodeToString(r.Original)
	}
	return o
}

func (o original) bytes() ([]byte, error) {
	if o.Base64 != "" {
		return base64.StdEncoding.DecodeString(o.Base64)
	}
	return []byte(o.Text), nil
}

// same tells whether two records keep the same original, whichever protection it was kept for.
func (o original) same(p original) bool {
	return key(o.NSG) == key(p.NSG) && strings.EqualFold(o.Rule, p.Rule) && o.Text == p.Text && o.Base64 == p.Base64
}

// record is the broker's store: the undo file, or memory where none was named. It knows protections and nothing else: nobody asks
// for access here. What stands in Azure without a record is laid over it with lay, and is written down only when the broker writes it.
type record struct {
	path         string // "": memory, which refuses to keep originals
	installation string
	now          func() time.Time
	unlock       func()

	mu   sync.Mutex
	prot []access.Protection // recorded, Replaced filled in
	orig []original          // with the times at which they were kept
	past []original
	laid map[string]access.Protection // by VM key
	meta map[string]string
	read []byte // the file as it was read or written last; nil: there was none
	n    int64  // entries appended
}

// openRecord reads the undo file. With write it is locked for this process until close; a file that does not exist yet is made by
// the first change.
func openRecord(path, installation string, write bool, now func() time.Time) (_ *record, err error) {
	r := &record{installation: installation, now: now, unlock: func() {}, laid: map[string]access.Protection{}, meta: map[string]string{}}
	if path == "" {
		return r, nil
	}
	if r.path, err = filepath.Abs(path); err != nil {
		return nil, unusable(path, err)
	}
	if real, err := filepath.EvalSymlinks(r.path); err == nil {
		r.path = real // a rename would replace the link, not the file
	}
	if write {
		if r.unlock, err = lockFile(r.path + ".lock"); err != nil {
			return nil, err
		}
	}
	defer func() {
		if err != nil {
			r.unlock()
		}
	}()
	b, err := readBounded(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, unusable(path, err)
	}
	if err := r.parse(path, b); err != nil || write {
		return r, err
	}
	for i := range r.prot {
		// Nobody works on it now: whether it is shut is for what is read from Azure to tell, not for what a run that was broken off left.
		if r.prot[i].Shields() {
			r.prot[i].State, r.prot[i].Why = access.ProtectionOn, ""
		}
	}
	return r, nil
}

func unusable(path string, err error) *access.Error {
	e := access.Errorf(access.CodeUnavailable, "the undo file %s cannot be used: %v", path, err).
		WithHint("nothing was changed; name a file in a folder that you may write to, with --undo")
	e.Field = "undo"
	return e
}

func readBounded(path string) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if st, err := f.Stat(); err != nil {
		return nil, err
	} else if !st.Mode().IsRegular() {
		return nil, errors.New("it is not a file")
	}
	b, err := io.ReadAll(io.LimitReader(f, maxUndo+1))
	if err == nil && len(b) > maxUndo {
		err = fmt.Errorf("it is larger than %d bytes", maxUndo)
	}
	return b, err
}

func (r *record) parse(path string, b []byte) error {
	bad := func(format string, args ...any) error {
		e := access.Errorf(access.CodeInvalid, "%s is not an undo file that can be used: %s", path, fmt.Sprintf(format, args...)).
			WithHint("nothing was changed; name another file with --undo, or put this one back from a copy")
		e.Field = "undo"
		return e
	}
	var version struct {
		Version int `json:"version"`
	}
	if err := json.Unmarshal(b, &version); err != nil {
		return bad("%v", err)
	}
	if version.Version != undoVersion {
		return bad("its form is %d, and this program knows %d", version.Version, undoVersion)
	}
	dec := json.NewDecoder(bytes.NewReader(b))
	dec.DisallowUnknownFields() // what is not understood would be lost by the next write
	var d document
	if err := dec.Decode(&d); err != nil {
		return bad("%v", err)
	}
	if d.Installation != r.installation {
		e := access.Errorf(access.CodeConflict, "the undo file %s belongs to installation %q, and this is %q", path, d.Installation, r.installation).
			WithHint("rules carry the installation's name: add --installation %s", d.Installation)
		e.Field = "installation"
		return e
	}
	at := map[string]int{}
	for i := range d.Protections {
		p := &d.Protections[i]
		if p.VM.ID == "" || p.Version <= 0 {
			return bad("protection %d names no machine or no version", i+1)
		}
		if _, twice := at[key(p.VM.ID)]; twice {
			return bad("%s stands there twice", p.VM.ID)
		}
		at[key(p.VM.ID)] = i
	}
	for i, o := range d.Originals {
		j, ok := at[key(o.VM)]
		text, err := o.bytes()
		if !ok || err != nil || len(text) == 0 || o.NSG == "" || o.Rule == "" {
			return bad("original %d, of rule %s, is incomplete", i+1, o.Rule)
		}
		d.Protections[j].Replaced = append(d.Protections[j].Replaced, access.Replacement{NSG: o.NSG, Rule: o.Rule, By: o.By, Original: text})
	}
	r.prot, r.orig, r.past, r.read = d.Protections, d.Originals, d.Past, b
	return nil
}

func (r *record) close() { r.unlock() }

// lay replaces what stands without a record. A machine that has one is passed over.
func (r *record) lay(ps []access.Protection) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range ps {
		if !slices.ContainsFunc(r.prot, func(q access.Protection) bool { return key(q.VM.ID) == key(p.VM.ID) }) {
			p.Version = 1
			r.laid[key(p.VM.ID)] = p
		}
	}
}

// lift forgets what was laid for a machine.
func (r *record) lift(vmID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.laid, key(vmID))
}

// reopen turns an unprotection that was broken off back into a protection, in memory alone, so that it can be asked for again.
func (r *record) reopen(vmID string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for i := range r.prot {
		if key(r.prot[i].VM.ID) == key(vmID) && r.prot[i].State == access.ProtectionRemoving {
			r.prot[i].State, r.prot[i].Why = access.ProtectionFailed, "its end was begun and not finished"
		}
	}
}

// recorded returns the protections that are written down.
func (r *record) recorded() []access.Protection {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.prot)
}

// at returns all protections with a part at a place.
func (r *record) at(place string) []access.Protection {
	r.mu.Lock()
	defer r.mu.Unlock()
	return (&tx{prot: r.prot, laid: r.laid}).where(func(p access.Protection) bool {
		return slices.ContainsFunc(p.Places, func(pl access.Place) bool { return key(pl.ID) == key(place) })
	})
}

// Update implements broker.Store. What it returns without an error is on the disk.
func (r *record) Update(_ context.Context, fn func(broker.Tx) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := &tx{write: true, prot: slices.Clone(r.prot), laid: map[string]access.Protection{}, meta: map[string]string{}, n: r.n}
	for k, v := range r.laid {
		t.laid[k] = v
	}
	for k, v := range r.meta {
		t.meta[k] = v
	}
	if err := fn(t); err != nil {
		return err
	}
	orig, past := r.orig, r.past
	if t.changed {
		orig, past = r.account(t.prot)
		if r.path == "" && len(orig) > 0 { // P3
			return needsUndo(orig[0].NSG, orig[0].Rule)
		}
		if err := r.store(t.prot, orig, past); err != nil {
			return err
		}
	}
	r.prot, r.laid, r.meta, r.n, r.orig, r.past = t.prot, t.laid, t.meta, t.n, orig, past
	return nil
}

func needsUndo(nsg, rule string) *access.Error {
	what := "a rule of somebody else's is replaced"
	if rule != "" {
		what = fmt.Sprintf("rule %s/%s is replaced", lastPart(nsg), rule)
	}
	e := access.Errorf(access.CodeInvalid, "%s only where its original is kept, and no undo file was named", what).
		WithHint("name one with --undo FILE: it is written before the rule is, and unprotect restores from it")
	e.Field = "undo"
	return e
}

// account returns the originals of protections, and the past with those that no protection needs any more.
func (r *record) account(prot []access.Protection) (orig, past []original) {
	now := r.now().UTC().Truncate(time.Second)
	past = slices.Clone(r.past)
	for _, p := range prot {
		for _, rep := range p.Replaced {
			o := newOriginal(p.VM.ID, rep)
			o.Kept = now
			if i := slices.IndexFunc(r.orig, o.same); i >= 0 {
				o.Kept = r.orig[i].Kept
			}
			orig = append(orig, o)
		}
	}
	for _, o := range r.orig {
		if !slices.ContainsFunc(orig, o.same) {
			o.Until = now
			past = append(past, o)
		}
	}
	return orig, past
}

// store writes the file: a new one beside it, on the disk, and then in its place.
func (r *record) store(prot []access.Protection, orig, past []original) error {
	if r.path == "" {
		return nil
	}
	d := document{Note: undoNote, Version: undoVersion, Installation: r.installation, Protections: []access.Protection{}, Originals: orig, Past: past}
	for _, p := range prot {
		p.Replaced = nil // they stand under originals
		d.Protections = append(d.Protections, p)
	}
	if d.Originals == nil {
		d.Originals = []original{}
	}
	if d.Past == nil {
		d.Past = []original{}
	}
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(d); err != nil {
		return unusable(r.path, err)
	}
	now, err := readBounded(r.path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return unusable(r.path, err)
	}
	if !bytes.Equal(now, r.read) {
		return access.Errorf(access.CodeConflict, "the undo file %s was changed by somebody meanwhile", r.path).
			WithHint("run the command again: it begins with the file as it is now")
	}
	if err := writeDurably(r.path, b.Bytes()); err != nil {
		return unusable(r.path, err)
	}
	r.read = b.Bytes()
	return nil
}

// writeDurably returns when the bytes are on the disk under that name. A crash leaves the old file or the new one.
func writeDurably(path string, b []byte) (err error) {
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".*") // mode 0600
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = f.Close()
			_ = os.Remove(f.Name())
		}
	}()
	if _, err = f.Write(b); err != nil {
		return err
	}
	if err = f.Sync(); err != nil {
		return err
	}
	if err = f.Close(); err != nil {
		return err
	}
	if err = os.Rename(f.Name(), path); err != nil {
		return err
	}
	return syncDir(filepath.Dir(path))
}

// View implements broker.Store.
func (r *record) View(_ context.Context, fn func(broker.Tx) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return fn(&tx{prot: r.prot, laid: r.laid, meta: r.meta, n: r.n})
}

// tx is a transaction over a record.
type tx struct {
	noAccess
	write, changed bool
	prot           []access.Protection
	laid           map[string]access.Protection
	meta           map[string]string
	n              int64
}

func (t *tx) PutProtection(p access.Protection) error {
	if !t.write {
		return errReadOnly
	}
	k := key(p.VM.ID)
	i := slices.IndexFunc(t.prot, func(q access.Protection) bool { return key(q.VM.ID) == k })
	have := int64(0)
	if i >= 0 {
		have = t.prot[i].Version
	} else if q, ok := t.laid[k]; ok {
		have = q.Version
	}
	if p.Version != have {
		return access.Errorf(access.CodeConflict, "the protection of %s was changed meanwhile", p.VM.Name)
	}
	p.Version++
	delete(t.laid, k)
	t.changed = true
	switch {
	case p.State == access.ProtectionRemoved && i >= 0:
		t.prot = slices.Delete(t.prot, i, i+1)
	case p.State == access.ProtectionRemoved:
	case i >= 0:
		t.prot[i] = p
	default:
		t.prot = append(t.prot, p)
	}
	return nil
}

func (t *tx) Protection(vmID string) (access.Protection, error) {
	for _, p := range t.prot {
		if key(p.VM.ID) == key(vmID) {
			return own(p), nil
		}
	}
	if p, ok := t.laid[key(vmID)]; ok {
		return p, nil
	}
	return access.Protection{}, access.Errorf(access.CodeNotFound, "there is no protection of %s", lastPart(vmID))
}

// own returns a copy to which a caller may append.
func own(p access.Protection) access.Protection {
	p.Replaced, p.Consents = slices.Clip(p.Replaced), slices.Clip(p.Consents)
	return p
}

func (t *tx) where(want func(access.Protection) bool) []access.Protection {
	var out []access.Protection
	for _, p := range t.prot {
		if want(p) {
			out = append(out, own(p))
		}
	}
	for _, p := range t.laid {
		if want(p) {
			out = append(out, p)
		}
	}
	slices.SortFunc(out, func(a, b access.Protection) int { return cmp.Compare(key(a.VM.ID), key(b.VM.ID)) })
	return out
}

func (t *tx) Protections() ([]access.Protection, error) {
	return t.where(func(access.Protection) bool { return true }), nil
}

func (t *tx) ProtectionsAt(place string) ([]access.Protection, error) {
	return t.where(func(p access.Protection) bool {
		return slices.ContainsFunc(p.Places, func(pl access.Place) bool { return key(pl.ID) == key(place) })
	}), nil
}

// Append numbers an entry and keeps nothing of it: there is no audit log without a server. The undo file holds what is needed to go
// back, and Azure's own activity log who changed what.
func (t *tx) Append(e audit.Entry) (audit.Entry, error) {
	if !t.write {
		return e, errReadOnly
	}
	e.Index = t.n
	t.n++
	return e, nil
}

func (t *tx) Meta(k string) (string, error) { return t.meta[k], nil }

func (t *tx) SetMeta(k, v string) error {
	if !t.write {
		return errReadOnly
	}
	t.meta[k] = v
	return nil
}

var errReadOnly = errors.New("writing in a transaction that only reads")

// errNoAccess is what everything about requests and grants comes to: they need a server.
var errNoAccess = access.Errorf(access.CodeInvalid, "without a server nobody can ask for access").
	WithHint("run a server: curfew serve")

// noAccess is the part of a store that standalone has no use for. Lists are empty, because the broker looks through them.
type noAccess struct{}

func (noAccess) InsertRequest(access.Request) error { return errNoAccess }
func (noAccess) UpdateRequest(access.Request) error { return errNoAccess }
func (noAccess) Request(access.RequestID) (access.Request, error) {
	return access.Request{}, errNoAccess
}
func (noAccess) Requests(broker.RequestFilter) ([]access.Request, string, error) {
	return nil, "", nil
}
func (noAccess) PendingExpired(time.Time, int) ([]access.Request, error)   { return nil, nil }
func (noAccess) InsertGrant(access.Grant) error                            { return errNoAccess }
func (noAccess) UpdateGrant(access.Grant) error                            { return errNoAccess }
func (noAccess) Grant(access.GrantID) (access.Grant, error)                { return access.Grant{}, errNoAccess }
func (noAccess) Grants(broker.GrantFilter) ([]access.Grant, string, error) { return nil, "", nil }
func (noAccess) LiveGrants() ([]access.Grant, error)                       { return nil, nil }
func (noAccess) LiveGrantsAt(string) ([]access.Grant, error)               { return nil, nil }
func (noAccess) DueGrants(time.Time, int) ([]access.Grant, error)          { return nil, nil }
func (noAccess) OverGrants(time.Time, int) ([]access.Grant, error)         { return nil, nil }
func (noAccess) Due() (broker.Due, error)                                  { return broker.Due{}, nil }
func (noAccess) Entries(broker.AuditFilter) ([]audit.Entry, error)         { return nil, nil }
func (noAccess) LogSize() (int64, error)                                   { return 0, nil }
func (noAccess) Checkpoint() (audit.Checkpoint, error)                     { return audit.Checkpoint{}, errNoAccess }
func (noAccess) Remembered(string, string, string) (string, bool, error)   { return "", false, nil }
func (noAccess) Remember(string, string, string, string, time.Time) error  { return errNoAccess }
func (noAccess) InsertScan(broker.ScanRecord) error                        { return errNoAccess }
func (noAccess) Scan(string) (broker.ScanRecord, error)                    { return broker.ScanRecord{}, errNoAccess }
func (noAccess) Scans(broker.Page) ([]scan.Head, string, error)            { return nil, "", nil }
func (noAccess) ForgetScans(int, time.Time) error                          { return nil }
func (noAccess) PutRecord(broker.Record) error                             { return errNoAccess }
func (noAccess) Record(string, string) (broker.Record, error)              { return broker.Record{}, errNoAccess }
func (noAccess) Records(string, string) ([]broker.Record, error)           { return nil, nil }
func (noAccess) DropRecord(string, string) error                           { return nil }
func (noAccess) ForgetRecords(time.Time) error                             { return nil }
func (noAccess) InsertNotice(notify.Notice) error                          { return errNoAccess }
func (noAccess) UpdateNotice(notify.Notice) error                          { return errNoAccess }
func (noAccess) Notice(string) (notify.Notice, error)                      { return notify.Notice{}, errNoAccess }
func (noAccess) Notices(broker.NoticeFilter) ([]notify.Notice, string, error) {
	return nil, "", nil
}
func (noAccess) DueNotices(string, time.Time, int) ([]notify.Notice, error) { return nil, nil }
func (noAccess) NoticeCounts() ([]notify.Count, error)                      { return nil, nil }
func (noAccess) ForgetNotices(time.Time) error                              { return nil }
func (noAccess) Forget(time.Time) error                                     { return nil }

func key(id string) string { return strings.ToLower(strings.TrimRight(id, "/")) }

func lastPart(id string) string { return id[strings.LastIndex(id, "/")+1:] }

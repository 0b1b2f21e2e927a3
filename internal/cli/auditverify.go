package cli

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"
	"golang.org/x/mod/sumdb/note"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/audit/export"
	"github.com/curfew-jit/curfew/internal/client"
)

// VerifyResult says which log was verified, up to where.
type VerifyResult struct {
	Source string `json:"source"`           // the server's URL, the database, or the export
	Origin string `json:"origin,omitempty"` // the name of the log
	Size   int64  `json:"size"`
	Root   string `json:"root"`
	Older  int64  `json:"older_size,omitempty"` // of the newest checkpoint that was compared, if one was
	Signed int    `json:"signed,omitempty"`     // how many checkpoints carry a signature that was checked
	// Unproven is how many of an export's entries stand behind its newest checkpoint: in order, but not proven.
	Unproven int64  `json:"unproven,omitempty"`
	Text     string `json:"checkpoint,omitempty"` // to be kept, and given to --checkpoint later
}

// verifyFlags are those of audit verify.
type verifyFlags struct {
	db, file, save string
	keys, older    []string
}

func (c *cli) auditVerifyCmd() *cobra.Command {
	var o verifyFlags
	cmd := &cobra.Command{
		Use: "verify", Short: "Recompute the log's Merkle tree from its entries and compare it with its checkpoints",
		Long: `Reads every entry, computes the tree anew and compares its root with the checkpoint. With --checkpoint it also shows that the log still
begins with all that stood in it when that checkpoint was saved: keep one somewhere else with --save, and give it here later. A file may hold
many, as the one that a server appends signed checkpoints to. With --key every checkpoint must be signed with that key: a log that was cut off or
rewritten together with its checkpoints is told then. With --db it reads a database file and with --file an export of JSON lines, without any
server. Ends with 1 when anything does not fit.`,
		Example: `curfew audit verify --save checkpoint.txt
curfew audit verify --checkpoint checkpoint.txt
curfew audit verify --key curfew/audit+2f6e…+AX… --checkpoint /mnt/worm/curfew.checkpoints
curfew audit verify --db /var/lib/curfew/curfew.db
curfew audit verify --file audit.jsonl --checkpoint checkpoint.txt`,
		Args: need(0, 0, "no arguments"),
		RunE: func(cmd *cobra.Command, _ []string) error { return c.runVerify(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.SortFlags = false
	if c.Local.VerifyDB != nil {
		f.StringVar(&o.db, "db", "", "verify this database `FILE`, offline")
	}
	f.StringVar(&o.file, "file", "", "verify this export, a `FILE` of JSON lines, offline; needs --checkpoint")
	f.StringArrayVar(&o.older, "checkpoint", nil, "`FILE` with checkpoints that were saved earlier; may be repeated")
	f.StringArrayVar(&o.keys, "key", nil, "public `KEY`, as audit keygen prints it, with which checkpoints must be signed; may be repeated")
	f.StringVar(&o.save, "save", "", "write the checkpoint to this `FILE`")
	return cmd
}

func (c *cli) runVerify(ctx context.Context, o verifyFlags) error {
	switch {
	case o.db != "" && o.file != "":
		return badInput("file", "--db and --file name two logs; one is verified at a time")
	case o.file != "" && len(o.older) == 0:
		return badInput("checkpoint", "an export proves nothing by itself").WithHint("name a checkpoint with --checkpoint, as audit export --save or audit verify --save wrote it")
	case o.file != "" && o.save != "":
		return badInput("save", "an export has no checkpoint of its own to be saved")
	case o.db != "" && len(o.keys) > 0 && len(o.older) == 0:
		return badInput("checkpoint", "a database holds no signatures").WithHint("name the file that signed checkpoints are appended to with --checkpoint")
	}
	known, err := verifiers(o.keys)
	if err != nil {
		return err
	}
	old, signed, err := c.readCheckpoints(o.older, known)
	if err != nil {
		return err
	}
	var v VerifyResult
	switch {
	case o.db != "":
		v, err = c.Local.VerifyDB(ctx, o.db, old)
	case o.file != "":
		v, err = verifyExport(ctx, o.file, old)
	default:
		v, err = c.verifyServer(ctx, old, known)
	}
	if err != nil {
		return err
	}
	v.Signed += signed
	if o.save != "" {
		if err := os.WriteFile(o.save, []byte(v.Text), 0o644); err != nil {
			return access.Errorf(access.CodeUnavailable, "the checkpoint could not be saved: %v", err)
		}
	}
	return c.show(v, func() string {
		var f fields
		f.add("verified", count(int(v.Size-v.Unproven), "entry")+" of "+v.Source+": nothing was changed, removed or put in between")
		if len(old) > 0 {
			f.add("since", fmt.Sprintf("the checkpoint of size %d: the log still begins with all of it", v.Older))
		}
		if v.Unproven > 0 {
			f.add("not proven", count(int(v.Unproven), "entry")+" behind the newest checkpoint: in order, and that is all that can be said")
		}
		if v.Signed > 0 {
			f.add("signed", count(v.Signed, "checkpoint")+", each with a key that was given")
		}
		f.add("root", v.Root)
		f.add("saved", o.save)
		return f.String()
	})
}

// verifiers reads public keys; nil if there are none.
func verifiers(keys []string) (note.Verifiers, error) {
	if len(keys) == 0 {
		return nil, nil
	}
	var list []note.Verifier
	for _, k := range keys {
		v, err := note.NewVerifier(k)
		if err != nil {
			return nil, badInput("key", "%.200q is not a public key", k).WithHint("give it as audit keygen printed it: NAME+HASH+KEY")
		}
		list = append(list, v)
	}
	return note.VerifierList(list...), nil
}

// readCheckpoints reads files of checkpoints. With keys each of them must be signed; a part that a crash cut off is said, and no error as
// long as the file holds another.
func (c *cli) readCheckpoints(files []string, known note.Verifiers) (all []audit.Checkpoint, signed int, err error) {
	for _, name := range files {
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, 0, badInput("checkpoint", "the checkpoint cannot be read: %v", err)
		}
		msgs, damaged := audit.SplitCheckpoints(b)
		good, unsigned := 0, 0
		for _, msg := range msgs {
			cp, err := audit.OpenCheckpoint(msg, known)
			var key *audit.KeyError
			switch {
			case errors.Is(err, audit.ErrUnsigned):
				unsigned++
				continue
			case errors.As(err, &key):
				return nil, 0, badInput("key", "%s: %v", name, key).WithHint("give the public key of that server with --key; several, if it was changed")
			case err != nil:
				return nil, 0, access.Errorf(access.CodeInternal, "%s: %v", name, err).WithHint("keep the file as it is, and find out who wrote to it")
			}
			if good++; known != nil {
				signed++
			}
			all = append(all, cp)
		}
		switch {
		case good == 0 && unsigned > 0:
			return nil, 0, badInput("checkpoint", "%s: %v, and a key was given to check it with", name, audit.ErrUnsigned).
				WithHint("name a file with signed checkpoints, or leave --key out if you trust the place where this one was kept")
		case good == 0:
			_, err := audit.ParseCheckpoint(b)
			return nil, 0, badInput("checkpoint", "%s: %v", name, err)
		case damaged+unsigned > 0:
			c.say("%s: %s cut off or damaged, and not looked at", name, count(damaged+unsigned, "checkpoint"))
		}
	}
	return all, signed, nil
}

// Verified turns what a verification saw into a result: a log that was changed is an error that names where it shows.
func Verified(source string, now audit.Checkpoint, rep audit.Report, err error) (VerifyResult, error) {
	v := VerifyResult{Source: source, Origin: rep.Origin, Size: rep.Size, Root: rep.Root.String(), Text: now.String()}
	for _, n := range rep.Against {
		v.Older = n
	}
	var t *audit.TamperError
	var foreign *audit.ForeignError
	switch {
	case errors.As(err, &t):
		return v, access.Errorf(access.CodeInternal, "%s", t).
			WithHint("keep the database and every checkpoint as they are, and find out who wrote to the database since")
	case errors.As(err, &foreign):
		return v, access.Errorf(access.CodeInternal, "%s", foreign).
			WithHint("name the checkpoints of this installation; if these are its own, keep everything as it is, and find out who put the database there")
	}
	return v, err
}

// verifyExport verifies a file of JSON lines against checkpoints.
func verifyExport(ctx context.Context, name string, known []audit.Checkpoint) (VerifyResult, error) {
	f, err := os.Open(name)
	if err != nil {
		return VerifyResult{}, badInput("file", "the export cannot be read: %v", err)
	}
	defer f.Close()
	rep, err := audit.VerifyCopy(ctx, export.Lines{R: f}, known...)
	v, err := Verified(name, audit.Checkpoint{}, rep, err)
	if e := (*access.Error)(nil); errors.As(err, &e) {
		err = e.WithHint("an export with filters has holes, and a checkpoint fits its own log alone; if neither is so, keep both files as they are")
	}
	v.Text = ""
	v.Unproven = v.Size - v.Older
	return v, err
}

// verifyServer fetches the whole log, and trusts nothing of it but what the tree confirms.
func (c *cli) verifyServer(ctx context.Context, older []audit.Checkpoint, known note.Verifiers) (VerifyResult, error) {
	cl, err := c.client()
	if err != nil {
		return VerifyResult{}, err
	}
	head, err := cl.Checkpoint(ctx)
	if err != nil {
		return VerifyResult{}, err
	}
	now, err := audit.OpenCheckpoint([]byte(head.Text), known)
	var key *audit.KeyError
	switch {
	case errors.Is(err, audit.ErrUnsigned):
		return VerifyResult{}, access.Errorf(access.CodeInternal, "the server's checkpoint is not signed").
			WithHint("%s", unsignedHint(head.Unsigned))
	case errors.As(err, &key):
		return VerifyResult{}, badInput("key", "the server's checkpoint: %v", key).WithHint("give the public key of this server")
	case err != nil:
		return VerifyResult{}, access.Errorf(access.CodeInternal, "the server's checkpoint is not readable: %v", err)
	}
	rep, err := audit.Verify(ctx, remoteLog{cl, now.Size}, now, older...)
	v, err := Verified(cl.Server(), now, rep, err)
	if v.Text = head.Text; known != nil {
		v.Signed = 1
	}
	return v, err
}

func unsignedHint(why string) string {
	if why != "" {
		return why
	}
	return "the server has no key; name one under audit.signing_key_file, or leave --key out"
}

// remoteLog reads a server's log up to a size: what was written after the checkpoint was made is not its matter.
type remoteLog struct {
	cl   *client.Client
	size int64
}

// Entries implements audit.Reader.
func (r remoteLog) Entries(ctx context.Context, fn func(audit.Stored) error) error {
	return remoteEntries(ctx, r.cl, client.AuditFilter{}, r.size, func(e audit.Entry) error {
		rec, err := e.Record()
		if err != nil {
			return err
		}
		return fn(audit.Stored{Index: e.Index, Record: rec})
	})
}

package cli

import (
	"errors"
	"io/fs"
	"os"

	"github.com/spf13/cobra"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/audit"
)

// KeyResult is a key that was made.
type KeyResult struct {
	File   string `json:"file"`
	Public string `json:"public"`
}

func (c *cli) auditKeygenCmd() *cobra.Command {
	var out, name string
	cmd := &cobra.Command{
		Use: "keygen", Short: "Make the key that signs the audit log's checkpoints", Args: need(0, 0, "no arguments"),
		Long: `Writes a new Ed25519 key to a file that only its owner can read, and prints its public part: what audit verify --key takes. Name the file
under audit.signing_key_file in the server's configuration, keep it where the database is not, and give the public part to whoever audits.
A file that exists is never written over.`,
		Example: "curfew audit keygen --out /etc/curfew/audit.key",
		RunE: func(*cobra.Command, []string) error {
			if out == "" {
				return badInput("out", "the key needs a file").WithHint("name one with --out, outside the server's data folder")
			}
			private, key, err := audit.GenerateKey(name)
			if err != nil {
				return badInput("name", "%v", err)
			}
			if err := writeNew(out, []byte(private+"\n")); errors.Is(err, fs.ErrExist) {
				return access.Errorf(access.CodeConflict, "%s exists, and a key is never written over", out).
					WithHint("name another file; a checkpoint that was signed with an old key needs the old public key")
			} else if err != nil {
				return access.Errorf(access.CodeUnavailable, "the key could not be written: %v", err)
			}
			c.say("the key is in %s; its public part, for audit verify --key:", out)
			return c.show(KeyResult{out, key.Public}, func() string { return key.Public + "\n" })
		},
	}
	f := cmd.Flags()
	f.SortFlags = false
	f.StringVar(&out, "out", "", "write the key to this `FILE`, which must not exist")
	f.StringVar(&name, "name", audit.KeyName, "`NAME` of the key, which stands beside each signature")
	return cmd
}

// writeNew writes a file of mode 0600 that did not exist; nothing is left of one that could not be written whole.
func writeNew(name string, data []byte) error {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err == nil {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(name))
	}
	return nil
}

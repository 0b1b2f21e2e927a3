package config

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/curfew-jit/curfew/internal/access"
	"github.com/curfew-jit/curfew/internal/policy"
)

// maxPolicy bounds the text of a policy, of all files of a folder together.
const maxPolicy = 16 << 20

// PolicyText is the text of a policy as it stands on the disk.
type PolicyText struct {
	files []policyFile
	// Sum tells whether it is another text.
	Sum string
}

type policyFile struct {
	name string
	text []byte
}

// ReadPolicy reads a policy file, or every *.yaml of a folder. Names of hidden files are passed over.
func ReadPolicy(path string) (PolicyText, error) {
	fail := func(err error) (PolicyText, error) {
		return PolicyText{}, access.Errorf(access.CodeInvalid, "the policy %s cannot be read: %s", path, plainPath(err)).Wrap(err).
			WithHint("name a file, or a folder that holds *.yaml")
	}
	names := []string{path}
	if st, err := os.Stat(path); err != nil {
		return fail(err)
	} else if st.IsDir() {
		names = nil
		entries, err := os.ReadDir(path)
		if err != nil {
			return fail(err)
		}
		for _, e := range entries { // sorted by name
			if n := e.Name(); strings.HasSuffix(n, ".yaml") && !strings.HasPrefix(n, ".") {
				names = append(names, filepath.Join(path, n))
			}
		}
		if len(names) == 0 {
			return fail(fmt.Errorf("the folder holds no *.yaml"))
		}
	}
	var out PolicyText
	left := int64(maxPolicy)
	h := sha256.New()
	for _, n := range names {
		f, err := os.Open(n)
		if err != nil {
			return fail(err)
		}
		b, err := io.ReadAll(io.LimitReader(f, left+1))
		f.Close()
		if err == nil && int64(len(b)) > left {
			err = fmt.Errorf("it is larger than %d bytes", maxPolicy)
		}
		if err != nil {
			return fail(err)
		}
		left -= int64(len(b))
		fmt.Fprintf(h, "%q %d\n", n, len(b))
		h.Write(b)
		out.files = append(out.files, policyFile{n, b})
	}
	out.Sum = hex.EncodeToString(h.Sum(nil))
	return out, nil
}

// plainPath takes the path out of an error of the file system: it stands in the message already.
func plainPath(err error) string {
	if _, rest, ok := strings.Cut(err.Error(), ": "); ok {
		return rest
	}
	return err.Error()
}

// Document reads the text. Faults are kept in it, as policy.New tells them.
func (t PolicyText) Document() policy.Document {
	var docs []policy.Document
	for _, f := range t.files {
		d, _ := policy.Parse(f.text, f.name) // its faults go with it
		docs = append(docs, d)
	}
	if len(docs) == 1 {
		return docs[0]
	}
	return policy.Merge(slices.Clip(docs)...)
}

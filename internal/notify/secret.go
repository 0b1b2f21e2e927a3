package notify

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
)

// SecretFile names a file that holds a secret. It is read whenever the secret is needed, so that a new one counts from the moment in
// which it stands there.
type SecretFile string

// maxSecret bounds a file with a secret.
const maxSecret = 16 << 10

// Lines returns the lines of the file that are not empty; none is an error. The error names the file and nothing of what is in it.
func (f SecretFile) Lines() ([]string, error) {
	if f == "" {
		return nil, errors.New("no file with the secret is named")
	}
	r, err := os.Open(string(f))
	if err != nil {
		return nil, err
	}
	defer r.Close()
	b, err := io.ReadAll(io.LimitReader(r, maxSecret+1))
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", string(f), err)
	}
	if len(b) > maxSecret {
		return nil, fmt.Errorf("%s is larger than %d bytes: is it the right file?", string(f), maxSecret)
	}
	var out []string
	for line := range strings.Lines(string(b)) {
		if line = strings.TrimSpace(line); line != "" {
			out = append(out, line)
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s is empty", string(f))
	}
	return out, nil
}

// One returns the only line of the file.
func (f SecretFile) One() (string, error) {
	ls, err := f.Lines()
	if err == nil && len(ls) > 1 {
		err = fmt.Errorf("%s holds %d lines, and one is needed", string(f), len(ls))
	}
	if err != nil {
		return "", err
	}
	return ls[0], nil
}

// secretFailure says that a secret cannot be had; somebody may put the file back.
func secretFailure(err error) *Failure {
	return &Failure{Message: "the file with its secret cannot be used; the server's log says more", Err: err}
}

package identity

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"

	"github.com/curfew-jit/curfew/internal/access"
)

// KeySize is the size of the key that secrets in the store are encrypted with.
const KeySize = 32

// LoadKey reads the key from its file, or makes the file, for its owner alone, where there is none. A file that others may read is
// refused: whoever has it and a copy of the database has everybody's refresh tokens.
func LoadKey(path string) ([]byte, error) {
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		b = make([]byte, KeySize)
		_, _ = rand.Read(b) // never fails: crypto/rand
		f, cerr := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
		if cerr == nil {
			_, cerr = f.Write(b)
			cerr = errors.Join(cerr, f.Sync(), f.Close())
		}
		if cerr != nil {
			return nil, access.Errorf(access.CodeUnavailable, "the key file %s cannot be made", path).Wrap(cerr).
				WithHint("make its folder writable for the server's account, or name another file under sign_in.key_file")
		}
		return b, nil
	}
	if err != nil {
		return nil, access.Errorf(access.CodeUnavailable, "the key file %s cannot be read", path).Wrap(err).
			WithHint("make it readable for the server's account alone")
	}
	if info, err := os.Stat(path); err == nil && runtime.GOOS != "windows" && info.Mode().Perm()&0o077 != 0 {
		return nil, access.Errorf(access.CodeInvalid, "the key file %s is open to others (%s)", path, info.Mode().Perm()).WithHint("chmod 600 %s", path)
	}
	if len(b) != KeySize {
		return nil, access.Errorf(access.CodeInvalid, "the key file %s holds %d bytes and not %d", path, len(b), KeySize).
			WithHint("take it out of the way to have a new one made; everybody signs in again then")
	}
	return b, nil
}

// sealer encrypts what is kept for later, and derives what need not be kept.
type sealer struct {
	aead   cipher.AEAD
	derive []byte
}

func newSealer(key []byte) (*sealer, error) {
	if len(key) != KeySize {
		return nil, fmt.Errorf("the key has %d bytes and not %d", len(key), KeySize)
	}
	sub := func(use string) []byte {
		h := hmac.New(sha256.New, key)
		h.Write([]byte("curfew sign-in: " + use))
		return h.Sum(nil)
	}
	block, err := aes.NewCipher(sub("encryption"))
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		return nil, err
	}
	return &sealer{aead: aead, derive: sub("derivation")}, nil
}

// close encrypts a secret for one place, so that it is worth nothing in another. Of nothing it makes nothing.
func (s *sealer) close(secret, place string) []byte {
	if secret == "" {
		return nil
	}
	nonce := make([]byte, s.aead.NonceSize())
	_, _ = rand.Read(nonce) // never fails: crypto/rand
	return s.aead.Seal(nonce, nonce, []byte(secret), []byte(place))
}

func (s *sealer) open(b []byte, place string) (string, error) {
	n := s.aead.NonceSize()
	if len(b) < n {
		return "", errors.New("a sealed secret is too short")
	}
	out, err := s.aead.Open(nil, b[:n], b[n:], []byte(place))
	if err != nil {
		return "", errors.New("a sealed secret cannot be opened: it was made with another key")
	}
	return string(out), nil
}

// from derives a value for a use from one that only its holder has, so that it need not be stored. 43 characters, as a verifier needs.
func (s *sealer) from(use, value string) string {
	h := hmac.New(sha256.New, s.derive)
	h.Write([]byte(use + ":" + value))
	return base64.RawURLEncoding.EncodeToString(h.Sum(nil))
}

// challenge is what PKCE shows of a verifier (RFC 7636, S256).
func challenge(verifier string) string {
	h := sha256.Sum256([]byte(verifier))
	return base64.RawURLEncoding.EncodeToString(h[:])
}

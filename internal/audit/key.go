package audit

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/mod/sumdb/note"
)

// Key signs checkpoints: an Ed25519 key in the form of signed notes (C2SP signed-note). The zero value signs nothing.
type Key struct {
	Signer   note.Signer
	Verifier note.Verifier
	Public   string // NAME+HASH+KEY, as audit verify --key takes it
}

// KeyName is what a key is called where nobody names it.
const KeyName = "curfew/audit"

// GenerateKey makes a key and returns its private form, one line, to be kept where the database is not.
func GenerateKey(name string) (private string, k Key, err error) {
	if name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == '+' || r > '~' }) {
		return "", Key{}, fmt.Errorf("a key cannot be called %.80q: its name is of printable ASCII without blanks and plus signs", name)
	}
	if private, _, err = note.GenerateKey(rand.Reader, name); err != nil {
		return "", Key{}, fmt.Errorf("making a key: %w", err)
	}
	k, err = ParseKey(private)
	return private, k, err
}

// ParseKey reads the private form of a key. The error says nothing of what it holds.
func ParseKey(private string) (Key, error) {
	private = strings.TrimSpace(private)
	bad := errors.New("it holds no signing key, as audit keygen writes it")
	s, err := note.NewSigner(private)
	if err != nil {
		return Key{}, bad
	}
	parts := strings.SplitN(private, "+", 5) // PRIVATE+KEY+NAME+HASH+KEY
	if len(parts) != 5 {
		return Key{}, bad
	}
	raw, err := base64.StdEncoding.DecodeString(parts[4])
	if err != nil || len(raw) != 1+ed25519.SeedSize {
		return Key{}, bad
	}
	public := ed25519.NewKeyFromSeed(raw[1:]).Public().(ed25519.PublicKey)
	text, err := note.NewEd25519VerifierKey(s.Name(), public)
	if err != nil {
		return Key{}, bad
	}
	v, err := note.NewVerifier(text)
	if err != nil || v.KeyHash() != s.KeyHash() {
		return Key{}, bad
	}
	return Key{Signer: s, Verifier: v, Public: text}, nil
}

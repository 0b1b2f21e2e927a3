package identity

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"golang.org/x/sync/singleflight"

	"github.com/curfew-jit/curfew/internal/clock"
)

// algorithms are those by which a token may be signed. None is not among them, and none with a shared secret: a public key would pass
// for one.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.ES256, jose.PS256}

func algorithmNames() (out []string) {
	for _, a := range algorithms {
		out = append(out, string(a))
	}
	return out
}

const (
	keysAge   = time.Hour        // after which keys are read again, so that one that was withdrawn does not go on
	keysPause = 30 * time.Second // between readings that a token with an unknown key asks for: anybody can send one
)

// keySet holds an issuer's public keys. While the issuer does not answer, those that were read last go on.
type keySet struct {
	url    string
	client *http.Client
	clock  clock.Clock
	flight singleflight.Group

	mu     sync.Mutex
	keys   []jose.JSONWebKey
	readAt time.Time // last success
	tried  time.Time // last try
}

func newKeySet(url string, c *http.Client, clk clock.Clock) *keySet {
	return &keySet{url: url, client: c, clock: clk}
}

// VerifySignature implements oidc.KeySet. An issuer whose keys were never read and cannot be is an error by isDown.
func (k *keySet) VerifySignature(ctx context.Context, raw string) ([]byte, error) {
	jws, err := jose.ParseSigned(raw, algorithms)
	if err != nil {
		return nil, fmt.Errorf("the token is not signed as it must be: %w", err)
	}
	if len(jws.Signatures) != 1 {
		return nil, errors.New("the token has not one signature")
	}
	kid := jws.Signatures[0].Header.KeyID
	now := k.clock.Now()
	k.mu.Lock()
	age, never := now.Sub(k.readAt), k.readAt.IsZero()
	k.mu.Unlock()
	if never || age >= keysAge || age < 0 {
		if err := k.read(ctx, never); err != nil && never {
			return nil, down("the issuer of the token", err)
		}
	}
	if out, known := k.verify(jws, kid); out != nil {
		return out, nil
	} else if known {
		return nil, errors.New("the token's signature is wrong")
	}
	// A key that is not known may be new.
	if err := k.read(ctx, false); err == nil {
		if out, _ := k.verify(jws, kid); out != nil {
			return out, nil
		}
	}
	return nil, errors.New("the token is signed with a key that its issuer does not have")
}

// verify returns the payload, and whether there was a key of that id.
func (k *keySet) verify(jws *jose.JSONWebSignature, kid string) (payload []byte, known bool) {
	k.mu.Lock()
	keys := k.keys
	k.mu.Unlock()
	for i := range keys {
		if kid != "" && keys[i].KeyID != kid {
			continue
		}
		known = true
		if out, err := jws.Verify(&keys[i]); err == nil {
			return out, true
		}
	}
	return nil, known
}

// read reads the keys, for all who ask at once, and not again soon after the last try, unless it is the first.
func (k *keySet) read(ctx context.Context, first bool) error {
	k.mu.Lock()
	since := k.clock.Now().Sub(k.tried)
	wait := !k.tried.IsZero() && since >= 0 && since < keysPause
	if first {
		wait = !k.tried.IsZero() && since >= 0 && since < tryAgain
	}
	k.mu.Unlock()
	if wait {
		return errors.New("the keys were read a moment ago")
	}
	ch := k.flight.DoChan("", func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), requestTime)
		defer cancel()
		var set struct {
			Keys []json.RawMessage `json:"keys"`
		}
		err := getJSON(ctx, k.client, k.url, "", &set)
		k.mu.Lock()
		defer k.mu.Unlock()
		k.tried = k.clock.Now()
		if err != nil {
			return nil, err
		}
		k.keys, k.readAt = nil, k.tried
		for _, raw := range set.Keys {
			var key jose.JSONWebKey
			if key.UnmarshalJSON(raw) != nil {
				continue // of a kind that is not used here; the others are good all the same
			}
			// Never a shared secret, and no key that is for encryption.
			if key.IsPublic() && key.Valid() && (key.Use == "" || key.Use == "sig") {
				k.keys = append(k.keys, key)
			}
		}
		return nil, nil
	})
	select {
	case <-ctx.Done():
		return ctx.Err()
	case r := <-ch:
		return r.Err
	}
}

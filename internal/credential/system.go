package credential

import (
	"errors"
	"fmt"
	"os"
	"runtime"

	"github.com/zalando/go-keyring"
)

// service is the name under which the entries stand in the system's keyring.
const service = "curfew"

// System returns the machine's keyring: Keychain, Credential Manager, or the Secret Service of the user's D-Bus session; nil where there
// is none, or where CURFEW_KEYRING is off.
func System(getenv func(string) string) Keyring {
	switch getenv("CURFEW_KEYRING") {
	case "off", "no", "0", "false":
		return nil
	}
	switch runtime.GOOS {
	case "darwin", "windows":
		return system{}
	}
	// Without a session bus the library would start one, with a keyring that ends with it.
	if getenv("DBUS_SESSION_BUS_ADDRESS") == "" {
		if _, err := os.Stat(fmt.Sprintf("/run/user/%d/bus", os.Getuid())); err != nil {
			return nil
		}
	}
	return system{}
}

type system struct{}

func (system) Get(server string) (string, error) {
	v, err := keyring.Get(service, server)
	return v, known(err)
}

func (system) Set(server, secret string) error { return keyring.Set(service, server, secret) }

func (system) Delete(server string) error { return known(keyring.Delete(service, server)) }

func known(err error) error {
	if errors.Is(err, keyring.ErrNotFound) {
		return ErrNotFound
	}
	return err
}

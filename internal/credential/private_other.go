//go:build !unix

package credential

import "os"

// private leaves it to the system: the user's configuration directory is closed to other users there.
func private(*os.File) error { return nil }

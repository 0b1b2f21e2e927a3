package standalone_test

import (
	"io"
	"strings"
)

func body(s string) io.ReadCloser { return io.NopCloser(strings.NewReader(s)) }

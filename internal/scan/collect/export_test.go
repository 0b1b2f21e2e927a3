package collect

import "testing"

// SmallParts makes fewer rows worth a part, and a page of a list, for the rest of a test, so that an estate of several parts is a small one.
func SmallParts(t testing.TB, rows int) {
	parts, lists := partRows, listRows
	partRows, listRows = rows, max(1, rows/16)
	t.Cleanup(func() { partRows, listRows = parts, lists })
}

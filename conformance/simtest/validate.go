package simtest

import "testing"

func Validate(t testing.TB, dir, client string) {}

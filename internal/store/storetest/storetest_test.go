package storetest_test

import (
	"testing"

	"github.com/curfew-jit/curfew/internal/broker"
	"github.com/curfew-jit/curfew/internal/store/storetest"
)

func TestMemory(t *testing.T) {
	storetest.Run(t, func(*testing.T) broker.Store { return &storetest.Memory{} })
}

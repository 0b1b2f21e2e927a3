package main

import (
	"context"

	"github.com/curfew-jit/curfew/internal/audit"
	"github.com/curfew-jit/curfew/internal/cli"
	"github.com/curfew-jit/curfew/internal/demo"
	"github.com/curfew-jit/curfew/internal/store/sqlite"
)

// local wires the commands that run in this process.
func local(e cli.Env) cli.Local {
	return cli.Local{
		Demo: func(ctx context.Context, o cli.DemoOptions) error {
			return demo.Run(ctx, demo.Options{Listen: o.Listen, AzureListen: o.AzureListen, Dir: o.Dir, JSON: o.JSON, Program: e.Program,
				Version: e.Version, Out: e.Stdout, Err: e.Stderr, Clock: e.Clock})
		},
		VerifyDB: func(ctx context.Context, database string, older []audit.Checkpoint) (v cli.VerifyResult, err error) {
			log, err := sqlite.OpenLog(ctx, database)
			if err != nil {
				return v, err
			}
			defer log.Close()
			now, cerr := log.Checkpoint()
			rep, err := log.Verify(ctx, older...)
			if err == nil {
				err = cerr
			}
			return cli.Verified(database, now, rep, err)
		},
	}
}

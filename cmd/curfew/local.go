package main

import "github.com/curfew-jit/curfew/internal/cli"

// local wires the commands that run in this process.
func local(e cli.Env) cli.Local {
	return cli.Local{}
}

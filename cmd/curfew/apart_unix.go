//go:build unix

package main

import (
	"os/exec"
	"syscall"
)

// apart takes a program out of the terminal's group: Ctrl-C there does not reach it.
func apart(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }

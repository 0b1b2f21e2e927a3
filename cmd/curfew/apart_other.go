//go:build !unix

package main

import "os/exec"

// apart is for terminals that send Ctrl-C to every program of a group.
func apart(*exec.Cmd) {}

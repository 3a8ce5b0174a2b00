//go:build !linux

package main

import (
	"os"
	"syscall"
)

func ownGroup() *syscall.SysProcAttr { return nil }

// signalGroup sends a signal to a process. One that has ended takes no notice.
func signalGroup(p *os.Process, s syscall.Signal) { _ = p.Signal(s) }

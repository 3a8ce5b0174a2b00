package main

import (
	"os"
	"syscall"
)

// ownGroup starts a process in a group of its own, and lets it be killed when this program is.
func ownGroup() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}

// signalGroup sends a signal to a process and to what it has started. Those that have ended take no notice.
func signalGroup(p *os.Process, s syscall.Signal) { _ = syscall.Kill(-p.Pid, s) }

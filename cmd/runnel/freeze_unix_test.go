//go:build unix

package main

import (
	"errors"
	"syscall"
)

// freeze stops the process, and returns when it has stopped.
func (h *handler) freeze() {
	h.t.Helper()
	pid := h.cmd.Process.Pid
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		h.t.Fatal(err)
	}
	var status syscall.WaitStatus
	for {
		_, err := syscall.Wait4(pid, &status, syscall.WUNTRACED, nil)
		if errors.Is(err, syscall.EINTR) {
			continue
		}
		if err != nil || !status.Stopped() {
			h.t.Fatalf("the handler has not stopped but %v, %v", status, err)
		}
		return
	}
}

// thaw lets a frozen process go on.
func (h *handler) thaw() {
	h.t.Helper()
	if err := syscall.Kill(h.cmd.Process.Pid, syscall.SIGCONT); err != nil {
		h.t.Fatal(err)
	}
}

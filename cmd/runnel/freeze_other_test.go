//go:build !unix

package main

// freeze skips the test: a process cannot be stopped here.
func (h *handler) freeze() {
	h.t.Helper()
	h.t.Skip("processes cannot be frozen here")
}

// thaw is never come to.
func (*handler) thaw() {}

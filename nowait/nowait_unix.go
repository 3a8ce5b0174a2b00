//go:build unix

package nowait

import (
	"errors"
	"net"
	"syscall"
)

// Writer writes to connections. The zero Writer is ready. It is used by one goroutine at a time.
type Writer struct {
	p    []byte
	n    int
	err  error
	once func(fd uintptr) bool
}

// Raw returns a connection as something that a Writer can write to, nil if it is not of that kind.
func Raw(conn net.Conn) syscall.RawConn {
	c, ok := conn.(syscall.Conn)
	if !ok {
		return nil
	}
	raw, err := c.SyscallConn()
	if err != nil {
		return nil
	}
	return raw
}

// Try writes what the connection takes at once. It returns how much that was, and an error only if the
// connection will never take more.
func (t *Writer) Try(raw syscall.RawConn, p []byte) (int, error) {
	if t.once == nil {
		t.once = func(fd uintptr) bool {
			for {
				t.n, t.err = syscall.Write(int(fd), t.p)
				if !errors.Is(t.err, syscall.EINTR) {
					return true // done, whether or not it was all
				}
			}
		}
	}
	t.p = p
	err := raw.Write(t.once)
	t.p = nil
	switch {
	case err != nil:
		return 0, err
	case errors.Is(t.err, syscall.EAGAIN):
		return 0, nil
	case t.err != nil:
		return 0, t.err
	}
	return t.n, nil
}

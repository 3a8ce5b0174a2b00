//go:build !unix

package nowait

import (
	"net"
	"syscall"
)

// Writer is of no use: this system offers no writing without waiting.
type Writer struct{}

// Raw returns nil: every reader has a goroutine instead.
func Raw(net.Conn) syscall.RawConn { return nil }

// Try writes nothing.
func (*Writer) Try(syscall.RawConn, []byte) (int, error) { return 0, nil }

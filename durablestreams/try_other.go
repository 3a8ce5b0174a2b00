//go:build !unix

package durablestreams

import (
	"net"
	"syscall"
)

// trier writes to connections without ever waiting for them, which this system does not offer: every
// reader has a goroutine instead.
type trier struct{}

func rawOf(net.Conn) syscall.RawConn { return nil }

func (*trier) try(syscall.RawConn, []byte) (int, error) { return 0, nil }

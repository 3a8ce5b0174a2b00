//go:build unix

package nowait_test

import (
	"fmt"
	"net"
	"testing"

	"github.com/runnelhq/runnel/nowait"
)

// connect returns the two ends of a connection.
func connect(t testing.TB) (server, client net.Conn) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if client, err = net.Dial("tcp", listener.Addr().String()); err != nil {
		t.Fatal(err)
	}
	if server, err = listener.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = server.Close()
		_ = client.Close()
	})
	return server, client
}

func TestAFullConnectionTakesNothingAndIsNotWaitedFor(t *testing.T) {
	server, client := connect(t)
	raw := nowait.Raw(server)
	var w nowait.Writer
	piece := make([]byte, 64<<10)
	for { // nobody reads
		n, err := w.Try(raw, piece)
		if err != nil {
			t.Fatal(err)
		}
		if n == 0 {
			break
		}
	}
	_ = server.Close()
	if _, err := w.Try(raw, piece); err == nil {
		t.Error("a closed connection takes something")
	}
	_ = client
}

func TestAConnectionOfAnotherKindIsToldApart(t *testing.T) {
	one, other := net.Pipe()
	defer one.Close()
	defer other.Close()
	if nowait.Raw(one) != nil {
		t.Error("a pipe can be written to without waiting")
	}
}

func ExampleWriter() {
	listener, _ := net.Listen("tcp", "127.0.0.1:0")
	defer listener.Close()
	client, _ := net.Dial("tcp", listener.Addr().String())
	defer client.Close()
	server, _ := listener.Accept()
	defer server.Close()

	var w nowait.Writer
	n, err := w.Try(nowait.Raw(server), []byte("hello"))
	fmt.Println(n, err)
	b := make([]byte, n)
	_, _ = client.Read(b)
	fmt.Println(string(b))
	// Output:
	// 5 <nil>
	// hello
}

package items

import (
	"bytes"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/runnelhq/runnel/nowait"
)

func TestAFrameSaysHowLongItIs(t *testing.T) {
	for size, head := range map[int]string{
		0: "\x81\x00", 125: "\x81\x7d", 126: "\x81\x7e\x00\x7e", 65535: "\x81\x7e\xff\xff", 65536: "\x81\x7f\x00\x00\x00\x00\x00\x01\x00\x00",
	} {
		text := strings.Repeat("x", size)
		frame := seal(append(begin(size), text...))
		if string(frame) != head+text || string(content(frame)) != text {
			t.Errorf("%d bytes begin with %q, want %q", size, frame[:min(10, len(frame))], head)
		}
	}
}

// TestFramesDoNotMix fills a connection until it takes no more, and lets others write then.
func TestFramesDoNotMix(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	client, err := net.Dial("tcp", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	o := &output{Conn: server, raw: nowait.Raw(server)}
	if o.raw == nil {
		t.Skip("this system offers no writing without waiting")
	}
	var want bytes.Buffer
	frame := seal(append(begin(100_000), strings.Repeat("a", 100_000)...))
	whole := true
	for whole {
		var begun bool
		if begun, whole = o.try(frame); begun {
			want.Write(frame)
		} else {
			break // full at the end of a frame
		}
	}
	if begun, _ := o.try(frame); begun {
		t.Fatal("a frame was begun inside of another, or where there was no room")
	}
	got := make(chan []byte)
	go func() {
		all, _ := io.ReadAll(client)
		got <- all
	}()
	last := seal(append(begin(1), 'z'))
	if err := o.send(last[:1], last[1:], 10*time.Second); err != nil {
		t.Fatal(err)
	}
	if _, err := o.Write(last); err != nil || len(o.rest) > 0 {
		t.Fatal(err)
	}
	want.Write(last)
	want.Write(last)
	farewell := []byte("\x88\x00")
	if _, err := o.Write(farewell); err != nil {
		t.Fatal(err)
	}
	want.Write(farewell)
	if begun, _ := o.try(last); begun || o.send(last, nil, 10*time.Second) == nil {
		t.Error("a frame was written after the one that closes")
	}
	_ = server.Close()
	if all := <-got; !bytes.Equal(all, want.Bytes()) {
		t.Errorf("%d bytes came, want %d", len(all), want.Len())
	}
}

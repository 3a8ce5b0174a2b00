package items

import (
	"bytes"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
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

// readSlowly reads a piece in 8 seconds, and tells how many bytes there were.
func readSlowly(r io.Reader) <-chan int {
	got := make(chan int)
	go func() {
		read := 0
		for {
			n, err := io.ReadFull(r, make([]byte, piece/2))
			if read += n; err != nil {
				got <- read
				return
			}
			time.Sleep(4 * time.Second) //nolint:forbidigo // in a bubble
		}
	}()
	return got
}

// A frame may be so large that a client which reads steadily needs longer for all of it than a write may take.
func TestALargeFrameMayTakeAsLongAsItsPiecesMay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		o := &output{Conn: server}
		body := bytes.Repeat([]byte("x"), 3*piece+1)
		got := readSlowly(client)
		if err := o.send([]byte("head"), body, 10*time.Second); err != nil {
			t.Errorf("it was cut off: %v", err)
		}
		server.Close()
		if n := <-got; n != len(body)+len("head") {
			t.Errorf("%d bytes came, want %d", n, len(body)+len("head"))
		}
	})
}

func TestWhatIsToEndIsNotGivenMoreTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		client, server := net.Pipe()
		defer client.Close()
		o := &output{Conn: server}
		got := readSlowly(client)
		time.AfterFunc(5*time.Second, func() { o.endBy(time.Now().Add(time.Second)) })
		begun := time.Now()
		if err := o.send([]byte("head"), bytes.Repeat([]byte("x"), 10*piece), 10*time.Second); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("%v", err)
		}
		if took := time.Since(begun); took != 6*time.Second {
			t.Errorf("it took %v", took)
		}
		server.Close()
		<-got
	})
}

// Memory is given for what has come, not for what somebody says that will.
func TestABodyTakesTheMemoryOfWhatHasCome(t *testing.T) {
	for _, n := range []int{0, 1, trust, trust + 1, 5*trust + 3} {
		want := bytes.Repeat([]byte("ab"), n)[:n]
		body, err := readFull(bytes.NewReader(append(want, 'z')), n)
		if err != nil || !bytes.Equal(body, want) {
			t.Errorf("%d bytes were read as %d: %v", n, len(body), err)
		}
		if n == 0 {
			continue
		}
		if body, err := readFull(bytes.NewReader(want[:n-1]), n); err == nil || len(body) != n-1 {
			t.Errorf("%d of %d bytes were read as %d: %v", n-1, n, len(body), err)
		}
	}
	body, err := readFull(strings.NewReader("ab"), 8<<20)
	if err == nil || cap(body) > trust {
		t.Errorf("2 of 8 Mi bytes took %d: %v", cap(body), err)
	}
}

package items

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"

	"github.com/runnelhq/runnel/nowait"
)

// The buffers that a connection keeps while it is idle. What clients send passes a full one by, and of what is
// sent to them only control frames go through one, of which each fits.
const (
	readBuffer  = 256
	writeBuffer = 160
)

// smallBuffers hands over connections with small buffers, in the place of those of net/http, and with an
// output under them.
type smallBuffers struct {
	http.ResponseWriter
	out *output // once it is taken over
}

func (w *smallBuffers) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	c, rw, err := http.NewResponseController(w.ResponseWriter).Hijack()
	if err != nil {
		return nil, nil, err
	}
	early, err := rw.Reader.Peek(rw.Reader.Buffered())
	if err != nil {
		return nil, nil, err
	}
	if err := rw.Writer.Flush(); err != nil {
		return nil, nil, err
	}
	var r io.Reader = c
	if len(early) > 0 {
		r = io.MultiReader(bytes.NewReader(bytes.Clone(early)), c)
	}
	in := bufio.NewReaderSize(r, max(readBuffer, len(early)))
	if _, err := in.Peek(len(early)); err != nil { // buffered, as those who take over look for it there
		return nil, nil, err
	}
	w.out = &output{Conn: c, raw: nowait.Raw(c)}
	return w.out, bufio.NewReadWriter(in, bufio.NewWriterSize(w.out, writeBuffer)), nil
}

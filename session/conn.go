package session

import (
	"context"
	"io"

	"github.com/coder/websocket"
	"github.com/xtaci/smux"
)

// Subprotocol is the WebSocket subprotocol of a session.
const Subprotocol = "runnel.session.v1"

// frameBytes is the largest piece that a stream sends at once.
const frameBytes = 32 << 10

// readLimit is the largest WebSocket message that either end takes: a frame with its header, and some.
const readLimit = 128 << 10

// conn is a WebSocket as a sequence of bytes. Where one message ends has no meaning.
type conn struct {
	ctx  context.Context //nolint:containedctx // the connection's own life, not an operation's
	ws   *websocket.Conn
	rest io.Reader // of the message that is being read
}

func newConn(ctx context.Context, ws *websocket.Conn) *conn {
	ws.SetReadLimit(readLimit)
	return &conn{ctx: ctx, ws: ws}
}

func (c *conn) Read(p []byte) (int, error) {
	for {
		if c.rest == nil {
			kind, r, err := c.ws.Reader(c.ctx)
			if err != nil {
				return 0, err
			}
			if kind != websocket.MessageBinary {
				return 0, malformed("a session has no text")
			}
			c.rest = r
		}
		n, err := c.rest.Read(p)
		if err == io.EOF {
			c.rest, err = nil, nil
		}
		if n > 0 || err != nil {
			return n, err
		}
	}
}

func (c *conn) Write(p []byte) (int, error) {
	if err := c.ws.Write(c.ctx, websocket.MessageBinary, p); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (c *conn) Close() error { return c.ws.CloseNow() }

// streamsConfig is how streams share a connection. The window of each is held against its own reader; the
// bound over all of them is out of reach, so that no reader keeps another one waiting.
func streamsConfig(window int, keepAlive KeepAlive) *smux.Config {
	return &smux.Config{
		Version:           2,
		KeepAliveInterval: keepAlive.Interval,
		KeepAliveTimeout:  keepAlive.Timeout,
		MaxFrameSize:      frameBytes,
		MaxReceiveBuffer:  1<<31 - 1,
		MaxStreamBuffer:   window,
	}
}

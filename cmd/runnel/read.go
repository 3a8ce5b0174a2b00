package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
)

type readCmd struct {
	Stream string `arg:"" help:"A stream's name or URL."`
	Offset string `help:"Begin at this offset; -1 is the beginning." default:"-1" placeholder:"OFFSET"`
	JSON   bool   `name:"json" help:"Print the messages of a JSON stream one to a line."`
	remote
}

func (c *readCmd) Run(ctx context.Context, std stdio) error {
	client, err := c.client(c.Stream)
	if err != nil {
		return err
	}
	r, err := client.Read(ctx, c.Stream, dsclient.Offset(c.Offset))
	if err != nil {
		return err
	}
	defer func() { _ = r.Close() }()
	p := watch(std.err, "read")
	err = copyOut(r, io.MultiWriter(std.out, p), c.JSON)
	if err == nil && !c.JSON && isTerminal(std.out) && runnel.IsJSON(r.ContentType()) {
		_, err = fmt.Fprintln(std.out) // the prompt goes on a line of its own
	}
	p.end("read %d bytes up to offset %s", p.bytes.Load(), r.Offset())
	return err
}

// copyOut writes what a reader brings, as it is or one message to a line.
func copyOut(r *dsclient.Reader, w io.Writer, lines bool) error {
	if !lines {
		_, err := io.CopyBuffer(w, struct{ io.Reader }{r}, make([]byte, 256<<10))
		return err
	}
	if !runnel.IsJSON(r.ContentType()) {
		return fmt.Errorf("the stream is of %s, and --json is for application/json", r.ContentType())
	}
	out := bufio.NewWriterSize(w, 256<<10)
	return errors.Join(writeLines(out, r.Messages()), out.Flush())
}

// writeLines writes one message to a line. Line ends inside a message are white space of its JSON.
func writeLines(w *bufio.Writer, messages iter.Seq2[[]byte, error]) error {
	var compact bytes.Buffer
	for message, err := range messages {
		if err != nil {
			return err
		}
		if bytes.ContainsAny(message, "\r\n") {
			compact.Reset()
			if err := json.Compact(&compact, message); err != nil {
				return err
			}
			message = compact.Bytes()
		}
		if _, err := w.Write(message); err != nil {
			return err
		}
		if err := w.WriteByte('\n'); err != nil {
			return err
		}
	}
	return nil
}

type tailCmd struct {
	Stream   string `arg:"" help:"A stream's name or URL."`
	From     string `help:"Begin at this offset; -1 is the beginning, now prints only what is still to come." default:"now" placeholder:"OFFSET"`
	JSON     bool   `name:"json" help:"Print the messages of a JSON stream one to a line."`
	Space    bool   `short:"s" help:"The name is that of a space: print what is appended to any of its segments, from a position on. With --json one object an entry, with its segment and place."`
	LongPoll bool   `help:"Ask again and again instead of keeping one answer open, for proxies that hold answers back."`
	remote
}

func (c *tailCmd) Help() string {
	return `It goes on over broken connections and restarts of the server, without a gap and without printing
anything twice, until the stream is closed or it is interrupted.`
}

func (c *tailCmd) Run(ctx context.Context, std stdio) error {
	if c.Space {
		return c.tailSpace(ctx, std)
	}
	client, err := c.client(c.Stream)
	if err != nil {
		return err
	}
	info, err := client.Stat(ctx, c.Stream)
	if err != nil {
		return err
	}
	if c.JSON && !runnel.IsJSON(info.ContentType) {
		return fmt.Errorf("the stream is of %s, and --json is for application/json", info.ContentType)
	}
	from, closed, err := c.catchUp(ctx, client, std.out)
	if err != nil || closed {
		return interrupted(ctx, err)
	}
	options := dsclient.TailOptions{
		// Server-sent events cannot carry every line end of a text as it is.
		LongPoll: c.LongPoll || strings.HasPrefix(runnel.MediaType(info.ContentType), "text/"),
		Retrying: func(err error, wait time.Duration) {
			if err != nil {
				std.note("%v; trying again in %s", err, wait.Round(time.Millisecond))
			}
		},
	}
	out := bufio.NewWriterSize(std.out, 64<<10)
	for batch, err := range client.Tail(ctx, c.Stream, from, options) {
		if err != nil {
			return interrupted(ctx, err)
		}
		if c.JSON {
			err = writeLines(out, batch.Messages())
		} else {
			_, err = out.Write(batch.Data)
		}
		if err = errors.Join(err, out.Flush()); err != nil {
			return err
		}
	}
	return nil
}

// catchUp prints what is there already, the fast way, and returns where to go on.
func (c *tailCmd) catchUp(ctx context.Context, client *dsclient.Client, w io.Writer) (from dsclient.Offset, closed bool, err error) {
	if from = dsclient.Offset(c.From); from == dsclient.Now {
		return from, false, nil
	}
	r, err := client.Read(ctx, c.Stream, from)
	if err != nil {
		return from, false, err
	}
	defer func() { _ = r.Close() }()
	err = copyOut(r, w, c.JSON)
	return r.Offset(), r.Closed(), err
}

// interrupted makes the user's interrupt, which is how a tail ends, no error.
func interrupted(ctx context.Context, err error) error {
	if ctx.Err() == nil {
		return err
	}
	return nil
}

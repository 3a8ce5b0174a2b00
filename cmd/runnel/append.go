package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
)

type appendCmd struct {
	Stream      string   `arg:"" help:"A stream's name or URL."`
	Data        []string `arg:"" optional:"" help:"Append these, each as it is; otherwise standard input."`
	JSON        bool     `name:"json" help:"Every line is a JSON message. The stream is created as application/json."`
	ContentType string   `help:"The stream's content type; otherwise that of the stream, or application/octet-stream." placeholder:"TYPE"`
	NoCreate    bool     `help:"Fail if there is no such stream, instead of creating it."`
	Close       bool     `help:"Close the stream behind the data."`
	Producer    string   `help:"Append as this producer, so that the same command with the same input can be run again after a failure and only adds what is missing." placeholder:"ID"`
	Epoch       uint64   `help:"The producer's epoch. A higher one starts anew with other input." placeholder:"N"`
	Batch       byteSize `help:"Send so much at once." default:"1MiB" placeholder:"SIZE"`
	PrintOffset bool     `help:"Print the stream's offset behind the data."`
	remote
}

func (c *appendCmd) Help() string {
	return `Everything is appended in order and once, also over broken connections and restarts of the server. The
command ends when all of it is on disk there.`
}

func (c *appendCmd) Validate() error {
	switch {
	case c.JSON && c.ContentType != "" && !runnel.IsJSON(c.ContentType):
		return fmt.Errorf("--json is for streams of application/json, not of %s", c.ContentType)
	case c.Epoch > runnel.MaxProducerNumber:
		return fmt.Errorf("--epoch must be at most %d", uint64(runnel.MaxProducerNumber))
	case c.Epoch > 0 && c.Producer == "":
		return errors.New("--epoch needs --producer")
	case c.Batch < 1 || c.Batch > 1<<30:
		return errors.New("--batch must be between 1 byte and 1GiB")
	}
	return nil
}

func (c *appendCmd) Run(ctx context.Context, std stdio) error {
	client, err := c.client(c.Stream)
	if err != nil {
		return err
	}
	contentType, err := c.prepare(ctx, client)
	if err != nil {
		return err
	}
	options := dsclient.WriterOptions{
		ContentType: contentType,
		Producer:    c.Producer,
		Epoch:       c.Epoch,
		BatchBytes:  int(c.Batch),
		CloseStream: c.Close,
		Retrying: func(err error, wait time.Duration) {
			std.note("%v; trying again in %s", err, wait.Round(time.Millisecond))
		},
	}
	if c.Producer != "" {
		options.Linger = -1 // the same input must make the same batches, however fast it comes
	}
	w := client.NewWriter(ctx, c.Stream, options)
	p := watch(std.err, "appended")
	copied := make(chan error, 1)
	go func() { copied <- c.copy(w, std.in, p, runnel.IsJSON(contentType)) }()
	var inputErr error
	select {
	case inputErr = <-copied:
	case <-w.Done(): // while the input still waits
	}
	if inputErr != nil {
		// What came before a mistake in the input is kept. It is not the end, so the stream is not closed.
		_, err = w.Flush()
	} else {
		err = w.Close()
	}
	acked := w.Acked()
	p.end("appended %d bytes up to offset %s", acked.Bytes, acked.Offset)
	if err = cmp.Or(err, inputErr); err != nil {
		std.note("stopped after %d bytes, which are appended", acked.Bytes)
		return err
	}
	if acked.Duplicates > 0 {
		std.note("%d of %d batches were there already, from producer %q", acked.Duplicates, acked.Batches, c.Producer)
	}
	if c.PrintOffset {
		_, err = fmt.Fprintln(std.out, acked.Offset)
	}
	return err
}

// prepare finds out the content type to append with, and creates the stream if it is not there.
func (c *appendCmd) prepare(ctx context.Context, client *dsclient.Client) (contentType string, err error) {
	want := c.ContentType
	if c.JSON {
		want = cmp.Or(want, "application/json")
	}
	info, err := client.Stat(ctx, c.Stream)
	switch {
	case errors.Is(err, runnel.ErrNotFound) && !c.NoCreate:
		created, err := client.Create(ctx, c.Stream, dsclient.CreateOptions{ContentType: cmp.Or(want, "application/octet-stream")})
		return created.ContentType, err
	case err != nil:
		return "", err
	case c.JSON && !runnel.IsJSON(info.ContentType):
		return "", fmt.Errorf("the stream is of %s, and --json is for application/json", info.ContentType)
	}
	return cmp.Or(want, info.ContentType), nil
}

// copy hands all input to the writer. Messages of a JSON stream stand one to a line, or one to an argument.
func (c *appendCmd) copy(w *dsclient.Writer, in io.Reader, p *progress, messages bool) error {
	out := io.MultiWriter(w, p)
	if len(c.Data) > 0 {
		for _, arg := range c.Data {
			if _, err := io.WriteString(out, arg); err != nil {
				return err
			}
		}
		return nil
	}
	if !messages {
		_, err := io.CopyBuffer(struct{ io.Writer }{out}, struct{ io.Reader }{in}, make([]byte, 256<<10))
		return err
	}
	return eachLine(in, func(number int, line []byte) error {
		if _, err := out.Write(line); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		return nil
	})
}

// eachLine calls do with every line that is not blank, without the space around it. Lines may be of any
// length.
func eachLine(in io.Reader, do func(number int, line []byte) error) error {
	return eachRawLine(in, func(number int, line []byte) error {
		if line = bytes.TrimSpace(line); len(line) == 0 {
			return nil
		}
		return do(number, line)
	})
}

// eachRawLine calls do with every line, without its end, and with what stands behind the last one.
func eachRawLine(in io.Reader, do func(number int, line []byte) error) error {
	r := bufio.NewReaderSize(in, 256<<10)
	var long []byte
	for number := 1; ; {
		part, err := r.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			long = append(long, part...)
			continue
		}
		ended := errors.Is(err, io.EOF)
		if err != nil && !ended {
			return err
		}
		line := part
		if len(long) > 0 {
			long = append(long, part...)
			line = long
		}
		if !ended || len(line) > 0 {
			line = bytes.TrimSuffix(line, []byte("\n"))
			if err := do(number, bytes.TrimSuffix(line, []byte("\r"))); err != nil {
				return err
			}
		}
		if ended {
			return nil
		}
		number, long = number+1, long[:0]
	}
}

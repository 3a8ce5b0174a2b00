package main

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strconv"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
)

type produceCmd struct {
	Segment       string            `arg:"" help:"A segment's name."`
	Data          []string          `arg:"" optional:"" help:"Append these, each as one record; otherwise every line of standard input."`
	JSON          bool              `name:"json" help:"Every line is a JSON object that describes a record, as consume --json prints it."`
	Meta          map[string]string `help:"Give every record this metadata." placeholder:"NAME=VALUE" mapsep:"none"`
	Batch         int               `help:"Send at most so many records at once." default:"1000" placeholder:"N"`
	Producer      string            `help:"Append as this producer, so that the same command with the same input and the same --batch can be run again after a failure and only adds what is missing." placeholder:"ID"`
	Epoch         uint64            `help:"The producer's epoch. A higher one starts anew with other input." placeholder:"N"`
	Key           string            `help:"Append all of the input at once, as what this key stands for: repeated with the same key and input it changes nothing." placeholder:"KEY"`
	Expect        string            `help:"Append all of the input at once, if the segment is as expected: any, none, exists, or the sequence of its last record." placeholder:"WHAT"`
	Fence         map[string]uint64 `help:"Append all of the input at once, if this lease of the segment's space is held under this number." placeholder:"KEY=NUMBER"`
	ContentType   string            `help:"The content type of a segment that is made." placeholder:"TYPE"`
	Close         bool              `help:"Let nothing follow the input."`
	PrintSequence bool              `help:"Print the sequence of the last record."`
	remote
}

func (c *produceCmd) Help() string {
	return `A line is a record; its line end is not part of it. The segment is made where it is missing. The command
ends when everything is on disk at the server, and appends it once and in order also over a broken connection.

With --json a line is an object with "payload" (a text), "base64" (bytes), or "json" (any JSON value), and
perhaps "metadata". Members that only say where a record was, such as "sequence", are left aside.`
}

func (c *produceCmd) Validate() error {
	switch {
	case c.Batch < 1:
		return errors.New("--batch must be at least 1")
	case c.Epoch > runnel.MaxProducerNumber:
		return fmt.Errorf("--epoch must be at most %d", uint64(runnel.MaxProducerNumber))
	case c.Epoch > 0 && c.Producer == "":
		return errors.New("--epoch needs --producer")
	case c.Producer != "" && c.isAtOnce():
		return errors.New("--producer excludes --key, --expect and --fence")
	}
	_, err := expectation(c.Expect)
	return err
}

// expectation reads what a segment is expected to be.
func expectation(s string) (client.Expect, error) {
	switch s {
	case "", "any":
		return client.Any(), nil
	case "none":
		return client.None(), nil
	case "exists":
		return client.Exists(), nil
	}
	tail, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return client.Expect{}, fmt.Errorf("--expect must be any, none, exists or a sequence, got %q", s)
	}
	return client.At(runnel.Sequence(tail)), nil
}

func (c *produceCmd) Run(ctx context.Context, std stdio) error {
	segment, err := c.segment(c.Segment)
	if err != nil {
		return err
	}
	log, err := c.dial(ctx, std)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // everything is acknowledged, or given up
	var last runnel.Sequence
	switch {
	case c.isAtOnce():
		last, err = c.atOnce(ctx, log, segment, std.in)
	case c.Producer != "":
		last, err = c.asProducer(ctx, log, segment, std)
	default:
		last, err = c.pipelined(ctx, log, segment, std)
	}
	if err == nil && c.PrintSequence {
		_, err = fmt.Fprintln(std.out, last)
	}
	return err
}

// isAtOnce tells whether all of the input is one write.
func (c *produceCmd) isAtOnce() bool { return c.Key != "" || c.Expect != "" || len(c.Fence) > 0 }

// atOnce appends all of the input with one write.
func (c *produceCmd) atOnce(ctx context.Context, log *client.Client, segment runnel.Segment, in io.Reader) (runnel.Sequence, error) {
	var records []runnel.Record
	err := c.records(in, func(r runnel.Record) error {
		records = append(records, r)
		return nil
	})
	if err != nil {
		return 0, err
	}
	if len(records) == 0 && !c.Close {
		return 0, errors.New("there is nothing to append")
	}
	expect, err := expectation(c.Expect)
	if err != nil {
		return 0, err
	}
	production := client.Production{Expect: expect, Key: c.Key, Close: c.Close, Create: c.create()}
	t := runnel.Transaction{Writes: []runnel.Write{{Segment: segment.Name, Options: production.Options(), Records: records}}}
	for key, number := range c.Fence {
		t.Fences = append(t.Fences, runnel.Fence{Key: key, Number: number})
	}
	committed, err := log.Transact(ctx, segment.In(), t)
	if err != nil {
		return 0, err
	}
	return committed.Appended[0].Tail, nil
}

// asProducer appends the input in batches that are the same each time it is run.
func (c *produceCmd) asProducer(ctx context.Context, log *client.Client, segment runnel.Segment, std stdio) (last runnel.Sequence, err error) {
	var batch []runnel.Record
	sent, duplicates := uint64(0), 0
	send := func(end bool) error {
		p := client.Production{
			Producer: &runnel.Producer{ID: c.Producer, Epoch: c.Epoch, Seq: sent}, Create: c.create(), Close: end && c.Close,
		}
		appended, err := log.Produce(ctx, segment, p, batch...)
		if err != nil {
			return err
		}
		if sent++; appended.Duplicate {
			duplicates++
		}
		last, batch = appended.Tail, batch[:0]
		return nil
	}
	err = c.records(std.in, func(r runnel.Record) error {
		if len(batch) == c.Batch {
			if err := send(false); err != nil {
				return err
			}
		}
		batch = append(batch, r)
		return nil
	})
	if err == nil && (len(batch) > 0 || c.Close) {
		err = send(true)
	}
	if duplicates > 0 {
		std.note("%d of %d batches were there already, from producer %q", duplicates, sent, c.Producer)
	}
	return last, err
}

// pipelined appends records as they come, and gathers the next while some are on their way.
func (c *produceCmd) pipelined(ctx context.Context, log *client.Client, segment runnel.Segment, std stdio) (runnel.Sequence, error) {
	p := log.Producer(segment, client.ProducerConfig{MaxBatchRecords: c.Batch, Create: c.create()})
	var lastAck *client.Ack
	ended := make(chan error, 1)
	go func() {
		ended <- c.records(std.in, func(r runnel.Record) (err error) {
			lastAck, err = p.Send(ctx, r)
			return err
		})
	}()
	var err error
	select {
	case err = <-ended:
	case <-ctx.Done(): // while the input still waits
		err = ctx.Err()
	}
	if closeErr := p.Close(ctx); err == nil || closeErr != nil {
		err = closeErr
	}
	if err != nil {
		return 0, err
	}
	var last runnel.Sequence
	if lastAck != nil {
		if last, err = lastAck.Wait(ctx); err != nil {
			return 0, err
		}
	}
	if !c.Close {
		return last, nil
	}
	closed, err := log.Produce(ctx, segment, client.Production{Create: c.create(), Close: true})
	return closed.Tail, err
}

func (c *produceCmd) create() runnel.CreateOptions {
	return runnel.CreateOptions{ContentType: c.ContentType}
}

// records hands over every record of the input, whose payload belongs to who gets it.
func (c *produceCmd) records(in io.Reader, do func(runnel.Record) error) error {
	if len(c.Data) > 0 {
		for i, data := range c.Data {
			if err := c.record([]byte(data), do); err != nil {
				return fmt.Errorf("record %d: %w", i+1, err)
			}
		}
		return nil
	}
	each := eachRawLine
	if c.JSON {
		each = eachLine
	}
	return each(in, func(number int, line []byte) error {
		if err := c.record(bytes.Clone(line), do); err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
		return nil
	})
}

func (c *produceCmd) record(data []byte, do func(runnel.Record) error) error {
	record := runnel.Record{Payload: data, Metadata: c.Meta}
	if c.JSON {
		var line recordLine
		err := json.Unmarshal(data, &line)
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok && wrong.Field != "" {
			return fmt.Errorf("%q must not be a %s", wrong.Field, wrong.Value)
		} else if ok {
			return fmt.Errorf("a record is an object, not a %s", wrong.Value)
		}
		if err != nil {
			return fmt.Errorf("not valid JSON: %w", err)
		}
		if record, err = line.record(); err != nil {
			return err
		}
		if len(c.Meta) > 0 {
			all := maps.Clone(c.Meta)
			maps.Copy(all, record.Metadata)
			record.Metadata = all
		}
	}
	return do(record)
}

// recordLine is a record as a line of JSON.
type recordLine struct {
	Payload  *string           `json:"payload,omitempty"`
	Base64   *string           `json:"base64,omitempty"`
	JSON     json.RawMessage   `json:"json,omitempty"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

func (l *recordLine) record() (runnel.Record, error) {
	r := runnel.Record{Metadata: l.Metadata}
	given := 0
	if l.Payload != nil {
		given++
		r.Payload = []byte(*l.Payload)
	}
	if l.Base64 != nil {
		given++
		var err error
		if r.Payload, err = base64.StdEncoding.DecodeString(*l.Base64); err != nil {
			return r, fmt.Errorf("base64: %w", err)
		}
	}
	if l.JSON != nil {
		given++
		r.Payload = l.JSON
	}
	if given != 1 {
		return r, fmt.Errorf("needs one of payload, base64 and json, has %d of them", given)
	}
	return r, nil
}

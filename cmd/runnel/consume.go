package main

import (
	"bufio"
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
)

type consumeCmd struct {
	Names     []string          `arg:"" name:"name" help:"The name of a segment; with --space, of one space or of several, which are merged by time."`
	Space     bool              `short:"s" help:"Read what all segments of a space hold, in the order in which it was written. A slash is the root space."`
	After     string            `help:"Begin behind this sequence of the segment, or position of the space; latest prints only what is still to come." default:"0" placeholder:"PLACE"`
	Through   uint64            `help:"End with this sequence, or position." placeholder:"PLACE"`
	Since     string            `help:"Begin at this time, for example 2030-01-31T12:00:00Z, or so long ago, for example 90m." placeholder:"TIME"`
	Until     string            `help:"End before this time, or so long ago." placeholder:"TIME"`
	Last      uint64            `help:"Print only so many of the last entries." placeholder:"N"`
	Limit     uint64            `help:"End after so many entries." placeholder:"N"`
	Backwards bool              `help:"Print the last entry first."`
	Follow    bool              `short:"f" help:"Go on with what is appended, until interrupted."`
	Filter    map[string]string `help:"Print only entries with this metadata; a value that ends in * says how it begins." placeholder:"NAME=VALUE" mapsep:"none"`
	Segments  string            `help:"Print only entries of segments whose names begin with this." placeholder:"PREFIX"`
	Cursor    string            `help:"Begin behind the stored place of this name, and store there what has been printed." placeholder:"NAME"`
	JSON      bool              `name:"json" help:"Print one JSON object to a line: the place, the time, the metadata and the payload."`
	Raw       bool              `help:"Print payloads as they are, one directly after the other; otherwise one to a line."`
	remote
}

func (c *consumeCmd) Help() string {
	return `It goes on over broken connections and restarts of the server, without a gap and without printing
anything twice. Entries of a space come in the order of their positions, which is that of the commits.

With --cursor the place is stored after the entries are written to standard output: what is printed twice,
if this program is killed in between, is never left out.`
}

func (c *consumeCmd) Validate() error {
	switch {
	case c.JSON && c.Raw:
		return errors.New("--json and --raw exclude each other")
	case len(c.Names) > 1 && !c.Space:
		return errors.New("several names are those of spaces, with --space")
	case len(c.Names) > 1 && c.After != "0" && c.After != "latest":
		return errors.New("--after is a place of one space, there are several")
	case c.Cursor != "" && (len(c.Names) > 1 || c.After != "0" || c.Last > 0 || c.Backwards):
		return errors.New("--cursor reads on in one segment or space, and excludes --after, --last and --backwards")
	}
	return nil
}

func (c *consumeCmd) Run(ctx context.Context, std stdio) error {
	q, err := c.query(time.Now())
	if err != nil {
		return err
	}
	log, err := c.dial(ctx, std)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // there is nothing under way
	var done func(context.Context, runnel.SpaceBatch) error
	if c.Cursor != "" {
		if done, err = c.resume(ctx, log, &q); err != nil {
			return err
		}
	}
	return interrupted(ctx, c.print(ctx, log, q, std.out, done))
}

// query is what the flags ask for.
func (c *consumeCmd) query(now time.Time) (runnel.Query, error) {
	q := runnel.Query{
		Through: c.Through, Last: c.Last, Limit: c.Limit, Backwards: c.Backwards, Follow: c.Follow,
		Filter: runnel.Filter{SegmentPrefix: c.Segments},
	}
	after, err := placeOf(c.After)
	if err != nil {
		return q, usagef("after: %v", err)
	}
	for _, name := range c.Names {
		source, err := c.source(name, c.Space)
		if err != nil {
			return q, err
		}
		source.After = after
		q.Sources = append(q.Sources, source)
	}
	if q.Since, err = timeOf(c.Since, now); err != nil {
		return q, usagef("since: %v", err)
	}
	if q.Until, err = timeOf(c.Until, now); err != nil {
		return q, usagef("until: %v", err)
	}
	for name, value := range c.Filter {
		into := &q.Filter.Metadata
		if prefix, ok := strings.CutSuffix(value, "*"); ok {
			into, value = &q.Filter.MetadataPrefix, prefix
		}
		if *into == nil {
			*into = make(map[string]string)
		}
		(*into)[name] = value
	}
	if err := q.Validate(); err != nil {
		return q, &usageError{err}
	}
	return q, nil
}

// placeOf reads a sequence or a position.
func placeOf(s string) (uint64, error) {
	if s == "latest" {
		return uint64(runnel.Latest), nil
	}
	n, err := strconv.ParseUint(s, 10, 64)
	if err != nil {
		return 0, fmt.Errorf("must be a number or latest, got %q", s)
	}
	return n, nil
}

// timeOf reads a time, or how long it is ago. The empty string is the zero time.
func timeOf(s string, now time.Time) (time.Time, error) {
	if s == "" {
		return time.Time{}, nil
	}
	if ago, err := time.ParseDuration(s); err == nil {
		return now.Add(-ago), nil
	}
	t, err := time.Parse(time.RFC3339Nano, s)
	if err != nil {
		return t, fmt.Errorf("must be a time such as 2030-01-31T12:00:00Z, or a duration such as 90m, got %q", s)
	}
	return t, nil
}

// resume makes the query begin at the cursor, and returns what stores how far it has come.
func (c *consumeCmd) resume(ctx context.Context, log *client.Client, q *runnel.Query) (func(context.Context, runnel.SpaceBatch) error, error) {
	source := &q.Sources[0]
	reader := log.Reader(runnel.CursorName{Space: source.Space, Segment: source.Segment, Name: c.Cursor})
	cursor, err := reader.Cursor(ctx)
	if err != nil {
		return nil, err
	}
	source.After = cursor.Place
	return func(ctx context.Context, b runnel.SpaceBatch) error {
		return reader.Commit(ctx, client.Entry{Entry: b.Entry(b.Len() - 1), Segment: b.Segment, ID: b.ID})
	}, nil
}

// print writes what a query yields, and calls done when a batch is written, if it is not nil.
func (c *consumeCmd) print(ctx context.Context, log *client.Client, q runnel.Query, w io.Writer, done func(context.Context, runnel.SpaceBatch) error) error {
	out := bufio.NewWriterSize(w, 256<<10)
	write := c.writer(out)
	for b, err := range log.Query(ctx, q) {
		for i := 0; err == nil && i < b.Len(); i++ {
			err = write(b.Segment, b.Entry(i))
		}
		if err == nil && (q.Follow || done != nil) {
			err = out.Flush()
		}
		if err == nil && done != nil {
			err = done(ctx, b)
		}
		if err != nil {
			return errors.Join(err, out.Flush())
		}
	}
	return out.Flush()
}

// writer returns what writes an entry in the form that is asked for.
func (c *consumeCmd) writer(out *bufio.Writer) func(runnel.Segment, runnel.Entry) error {
	if c.JSON {
		lines := json.NewEncoder(out)
		lines.SetEscapeHTML(false)
		return func(segment runnel.Segment, e runnel.Entry) error { return lines.Encode(entryLineOf(segment, e)) }
	}
	return func(_ runnel.Segment, e runnel.Entry) error {
		_, err := out.Write(e.Payload)
		if err == nil && !c.Raw {
			err = out.WriteByte('\n')
		}
		return err
	}
}

// entryLine is an entry as a line of JSON.
type entryLine struct {
	Segment     string          `json:"segment"`
	Sequence    runnel.Sequence `json:"sequence"`
	Position    runnel.Position `json:"position"`
	Transaction runnel.Position `json:"transaction"`
	Time        time.Time       `json:"time"`
	recordLine
}

// entryLineOf describes an entry. A payload that is not text is given in Base64.
func entryLineOf(segment runnel.Segment, e runnel.Entry) entryLine {
	l := entryLine{
		Segment: segment.Path(), Sequence: e.Sequence, Position: e.Position, Transaction: e.Transaction, Time: e.Time,
		recordLine: recordLine{Metadata: e.Metadata},
	}
	if utf8.Valid(e.Payload) {
		text := string(e.Payload)
		l.Payload = &text
	} else {
		bytes := base64.StdEncoding.EncodeToString(e.Payload)
		l.Base64 = &bytes
	}
	return l
}

// tailSpace follows a space, for runnel tail.
func (c *tailCmd) tailSpace(ctx context.Context, std stdio) error {
	after := c.From
	switch after {
	case "now":
		after = "latest"
	case "-1":
		after = "0"
	}
	if _, err := placeOf(after); err != nil {
		return usagef("from must be a position, -1 or now, got %q", c.From)
	}
	consume := consumeCmd{Names: []string{c.Stream}, Space: true, After: after, Follow: true, JSON: c.JSON, remote: c.remote}
	return consume.Run(ctx, std)
}

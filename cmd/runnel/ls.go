package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"text/tabwriter"
	"time"

	"github.com/runnelhq/runnel/durablestreams/dsclient"
)

type lsCmd struct {
	Prefix string `arg:"" optional:"" help:"List the streams whose names begin with this; otherwise all."`
	JSON   bool   `name:"json" help:"Print one JSON object to a line."`
	remote
}

// listedLine is what ls prints as JSON.
type listedLine struct {
	Stream         string          `json:"stream"`
	ContentType    string          `json:"contentType"`
	CreatedAt      time.Time       `json:"createdAt"`
	Offset         dsclient.Offset `json:"offset"`
	EarliestOffset dsclient.Offset `json:"earliestOffset,omitempty"`
	Closed         bool            `json:"closed"`
	TTLSeconds     int64           `json:"ttlSeconds,omitempty"`
	ExpiresAt      *time.Time      `json:"expiresAt,omitempty"`
}

// lsAlign is how many rows are aligned with each other. Waiting for more would keep a reader of a long
// listing waiting too.
const lsAlign = 1000

func (c *lsCmd) Run(ctx context.Context, std stdio) (err error) {
	client, err := c.client()
	if err != nil {
		return err
	}
	out := bufio.NewWriter(std.out) // keeps an error until it is flushed, and so does the table
	defer func() { err = errors.Join(err, out.Flush()) }()
	lines := json.NewEncoder(out)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	n := 0
	for s, err := range client.List(ctx, c.Prefix) {
		if err != nil {
			return errors.Join(err, table.Flush())
		}
		if c.JSON {
			if err := lines.Encode(lineOf(s)); err != nil {
				return err
			}
			continue
		}
		if n == 0 {
			_, _ = fmt.Fprintln(table, "STREAM\tCONTENT TYPE\tOFFSET\tCREATED\t")
		}
		state := ""
		if s.Closed {
			state = "closed"
		}
		_, _ = fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", s.Stream, s.ContentType, s.Offset, s.Created.Format(time.RFC3339), state)
		if n++; n%lsAlign == 0 {
			if err := table.Flush(); err != nil {
				return err
			}
		}
	}
	return table.Flush()
}

func lineOf(s dsclient.Listed) listedLine {
	line := listedLine{
		Stream: s.Stream, ContentType: s.ContentType, CreatedAt: s.Created, Offset: s.Offset,
		EarliestOffset: s.Earliest, Closed: s.Closed, TTLSeconds: int64(s.TTL / time.Second),
	}
	if !s.ExpiresAt.IsZero() {
		line.ExpiresAt = &s.ExpiresAt
	}
	return line
}

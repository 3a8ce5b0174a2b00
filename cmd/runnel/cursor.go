package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/client"
)

type cursorCmd struct {
	Ls  cursorLsCmd  `cmd:"" help:"List the cursors of a segment or a space, and how far behind they are."`
	Get cursorGetCmd `cmd:"" aliases:"show" help:"Print the place of a cursor."`
	Set cursorSetCmd `cmd:"" help:"Move a cursor, or make it."`
	Rm  cursorRmCmd  `cmd:"" help:"Delete cursors."`
}

func (*cursorCmd) Help() string {
	return `A cursor is the stored place of a named reader: how far it has come in a segment, as a sequence, or in a
space, as a position. A slash is the root space. The cursor of a subscription is among those of its segments,
as __ds/ and the subscription's id. Setting it, back with --rewind, ends the wake in flight, and is refused
while somebody works on it.`
}

// cursorOf is what the cursors of a command belong to.
type cursorOf struct {
	Name  string `arg:"" help:"The name of a segment; with --space, of a space."`
	Space bool   `short:"s" help:"The name is that of a space."`
}

// cursorLine is a cursor as a line of JSON.
type cursorLine struct {
	Cursor  string    `json:"cursor"`
	Place   uint64    `json:"place"`
	End     uint64    `json:"end"`
	Lag     uint64    `json:"lag"`
	Bytes   *int64    `json:"lag_bytes,omitempty"`
	Updated time.Time `json:"updated"`
}

func cursorLineOf(c runnel.Cursor) cursorLine {
	line := cursorLine{Cursor: c.Name, Place: c.Place, End: c.End, Lag: c.Lag(), Updated: c.Updated}
	if c.LagBytes >= 0 {
		line.Bytes = &c.LagBytes
	}
	return line
}

// with connects, and calls do with what the cursors belong to.
func (o cursorOf) with(ctx context.Context, r remote, std stdio, do func(*client.Client, runnel.Source) error) error {
	source, err := r.source(o.Name, o.Space)
	if err != nil {
		return err
	}
	log, err := r.dial(ctx, std)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // there is nothing under way
	return do(log, source)
}

func cursorName(source runnel.Source, name string) runnel.CursorName {
	return runnel.CursorName{Space: source.Space, Segment: source.Segment, Name: name}
}

type cursorLsCmd struct {
	cursorOf
	Prefix string `help:"List only cursors whose names begin with this." placeholder:"PREFIX"`
	JSON   bool   `name:"json" help:"Print one JSON object to a line."`
	remote
}

func (c *cursorLsCmd) Run(ctx context.Context, std stdio) error {
	return c.with(ctx, c.remote, std, func(log *client.Client, source runnel.Source) error {
		lines := json.NewEncoder(std.out)
		table := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
		n := 0
		for cursor, err := range log.Cursors(ctx, source.Space, source.Segment, c.Prefix, "") {
			if err != nil {
				return errors.Join(err, table.Flush())
			}
			if c.JSON {
				if err := lines.Encode(cursorLineOf(cursor)); err != nil {
					return err
				}
				continue
			}
			if n == 0 {
				_, _ = fmt.Fprintln(table, "CURSOR\tPLACE\tEND\tLAG\tBYTES\tUPDATED") // the table keeps an error until it is flushed
			}
			n++
			_, _ = fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%s\t%s\n", cursor.Name, cursor.Place, cursor.End, cursor.Lag(), bytesOf(cursor.LagBytes), movedAt(cursor.Updated))
		}
		return table.Flush()
	})
}

// bytesOf shows how many bytes a cursor is behind, where that is known.
func bytesOf(n int64) string {
	if n < 0 {
		return "-"
	}
	return strconv.FormatInt(n, 10)
}

// movedAt shows when a cursor was moved, if it ever was.
func movedAt(t time.Time) string {
	if t.IsZero() {
		return "-"
	}
	return t.Format(time.RFC3339)
}

type cursorGetCmd struct {
	cursorOf
	Cursor string `arg:"" help:"The cursor's name."`
	JSON   bool   `name:"json" help:"Print the place, the end, the lag and the time as JSON."`
	remote
}

func (c *cursorGetCmd) Run(ctx context.Context, std stdio) error {
	return c.with(ctx, c.remote, std, func(log *client.Client, source runnel.Source) error {
		cursor, err := log.Cursor(ctx, cursorName(source, c.Cursor))
		if err != nil {
			return err
		}
		if c.JSON {
			return json.NewEncoder(std.out).Encode(cursorLineOf(cursor))
		}
		_, err = fmt.Fprintln(std.out, cursor.Place)
		return err
	})
}

type cursorSetCmd struct {
	cursorOf
	Cursor string  `arg:"" help:"The cursor's name."`
	Place  string  `arg:"" help:"A sequence of the segment, or a position of the space: what the reader has done with. latest is the end."`
	Expect *uint64 `help:"Move it only if it is here; 0 is also that there is none." placeholder:"PLACE"`
	Rewind bool    `help:"Let it go back."`
	remote
}

func (c *cursorSetCmd) Run(ctx context.Context, std stdio) error {
	place, err := placeOf(c.Place)
	if err != nil {
		return usagef("place: %v", err)
	}
	return c.with(ctx, c.remote, std, func(log *client.Client, source runnel.Source) error {
		if place == uint64(runnel.Latest) {
			if place, err = endOf(ctx, log, source); err != nil {
				return err
			}
		}
		move := runnel.CursorMove{Segment: source.Segment, Name: c.Cursor, Place: place, Expect: c.Expect, Rewind: c.Rewind}
		_, err := log.Transact(ctx, source.Space, runnel.Transaction{Cursors: []runnel.CursorMove{move}})
		return err
	})
}

// endOf is the tail of a segment, or the head of a space.
func endOf(ctx context.Context, log *client.Client, source runnel.Source) (uint64, error) {
	if source.Segment == "" {
		info, err := log.StatSpace(ctx, source.Space)
		return uint64(info.Head), err
	}
	info, err := log.Stat(ctx, source.Space.Segment(source.Segment))
	return uint64(info.Tail), err
}

type cursorRmCmd struct {
	cursorOf
	Cursors []string `arg:"" name:"cursor" help:"The cursors' names."`
	remote
}

func (c *cursorRmCmd) Run(ctx context.Context, std stdio) error {
	return c.with(ctx, c.remote, std, func(log *client.Client, source runnel.Source) error {
		for _, name := range c.Cursors {
			if err := log.DeleteCursor(ctx, cursorName(source, name)); err != nil {
				return err
			}
		}
		return nil
	})
}

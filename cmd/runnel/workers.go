package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/runnelhq/runnel/client"
)

type workersCmd struct {
	Space  string `arg:"" help:"The name of a space; a slash is the root space."`
	Follow bool   `short:"f" help:"Go on with those who join and leave, until interrupted."`
	JSON   bool   `name:"json" help:"Print one JSON object to a line."`
	remote
}

func (*workersCmd) Help() string {
	return `A worker is a process that has joined a space with the Go SDK. It is present until it leaves, or has not
been heard of for its time, by the server's clock.`
}

// workerLine is what becomes of a worker, as a line of JSON.
type workerLine struct {
	Event    string            `json:"event"`
	Worker   string            `json:"worker"`
	Number   uint64            `json:"number"`
	Joined   time.Time         `json:"joined"`
	Metadata map[string]string `json:"metadata,omitempty"`
}

func (c *workersCmd) Run(ctx context.Context, std stdio) error {
	space, err := c.space(c.Space)
	if err != nil {
		return err
	}
	log, err := c.dial(ctx, std)
	if err != nil {
		return err
	}
	defer func() { _ = log.Close() }() // there is nothing under way
	out := bufio.NewWriter(std.out)
	for e, err := range log.Workers(ctx, space) {
		if err != nil {
			return interrupted(ctx, err)
		}
		if e.Complete {
			if err := out.Flush(); err != nil || !c.Follow {
				return err
			}
			continue
		}
		if err := c.print(out, e); err != nil {
			return err
		}
		if e.Live {
			if err := out.Flush(); err != nil {
				return err
			}
		}
	}
	return out.Flush()
}

func (c *workersCmd) print(out *bufio.Writer, e client.WorkerEvent) error {
	w := e.Worker
	line := workerLine{Event: "present", Worker: w.ID, Number: w.Number, Joined: w.Joined, Metadata: w.Metadata}
	switch {
	case e.Left:
		line.Event = "left"
	case e.Live:
		line.Event = "joined"
	}
	if c.JSON {
		return json.NewEncoder(out).Encode(line)
	}
	var about []string
	for name, value := range line.Metadata {
		about = append(about, name+"="+value)
	}
	slices.Sort(about)
	_, err := fmt.Fprintf(out, "%-7s  %s  since %s  %s\n", line.Event, line.Worker, line.Joined.Format(time.RFC3339), strings.Join(about, " "))
	return err
}

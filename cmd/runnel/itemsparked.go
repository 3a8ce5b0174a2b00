package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"net/url"
	"text/tabwriter"
	"time"

	"github.com/runnelhq/runnel/items"
)

// itemsParkedCmd looks after what triggers have given up on.
type itemsParkedCmd struct {
	Ls     parkedLsCmd     `cmd:"" help:"List what is parked, of a trigger or of all."`
	Show   parkedShowCmd   `cmd:"" help:"Describe what is parked, with its event, as JSON."`
	Replay parkedReplayCmd `cmd:"" help:"Call the trigger again with what is parked; it goes when that succeeds."`
	Drop   parkedDropCmd   `cmd:"" help:"Forget what is parked."`
}

type parkedLsCmd struct {
	Trigger string `arg:"" optional:"" help:"The trigger's name."`
	JSON    bool   `name:"json" help:"Print one JSON object to a line."`
	remote
}

// parkedLine is what is looked at of a parked event.
type parkedLine struct {
	ID    string `json:"id"`
	Value struct {
		Error    string    `json:"error"`
		Attempts int       `json:"attempts"`
		Parked   time.Time `json:"parked"`
		Replay   bool      `json:"replay"`
		Event    struct {
			Stream string  `json:"streamName"`
			Group  string  `json:"groupId"`
			Item   *string `json:"id"`
			Event  struct {
				Type string `json:"type"`
			} `json:"event"`
		} `json:"event"`
	} `json:"value"`
}

func (c *parkedLsCmd) Run(ctx context.Context, std stdio) error {
	triggers := []string{c.Trigger}
	if c.Trigger == "" {
		var err error
		if triggers, err = c.parkedTriggers(ctx); err != nil {
			return err
		}
	}
	table := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0)
	first := true
	for _, trigger := range triggers {
		err := c.pages(ctx, "items", []string{items.ParkedStream, trigger}, func(raw json.RawMessage) error {
			var line parkedLine
			if err := json.Unmarshal(raw, &line); err != nil {
				return fmt.Errorf("read what is parked: %w", err)
			}
			if c.JSON {
				_, err := fmt.Fprintf(std.out, "%s\n", raw)
				return err
			}
			if first {
				_, _ = fmt.Fprintln(table, "TRIGGER\tID\tGROUP\tITEM\tEVENT\tATTEMPTS\tPARKED\t")
				first = false
			}
			v := &line.Value
			why := v.Error
			if v.Replay {
				why = "is tried again"
			}
			item := "-"
			if v.Event.Item != nil {
				item = *v.Event.Item
			}
			_, err := fmt.Fprintf(table, "%s\t%s\t%s/%s\t%s\t%s\t%d\t%s\t%s\n", trigger, line.ID, v.Event.Stream, v.Event.Group, item, v.Event.Event.Type,
				v.Attempts, v.Parked.Format(time.RFC3339), oneLine(why))
			return err
		})
		if err != nil {
			return err
		}
	}
	return table.Flush()
}

// oneLine makes one line of a text.
func oneLine(text string) string {
	return string(bytes.Join(bytes.Fields([]byte(text)), []byte(" ")))
}

// parkedTriggers are the names of triggers that something is parked of.
func (r remote) parkedTriggers(ctx context.Context) (names []string, err error) {
	err = r.pages(ctx, "groups", []string{items.ParkedStream}, func(raw json.RawMessage) error {
		var name string
		if err := json.Unmarshal(raw, &name); err != nil {
			return fmt.Errorf("read the triggers: %w", err)
		}
		names = append(names, name)
		return nil
	})
	return names, err
}

// pages calls each for what a resource lists in a field, page by page.
func (r remote) pages(ctx context.Context, field string, names []string, each func(json.RawMessage) error) error {
	target, header, err := r.itemsURL(names...)
	if err != nil {
		return err
	}
	for query := ""; ; {
		_, answer, err := askServer(ctx, http.MethodGet, target+query, nil, header)
		if err != nil {
			return err
		}
		var page map[string]json.RawMessage
		var all []json.RawMessage
		var next *string
		for _, err := range []error{json.Unmarshal(answer, &page), json.Unmarshal(page[field], &all), json.Unmarshal(page["next"], &next)} {
			if err != nil {
				return fmt.Errorf("read the list: %w", err)
			}
		}
		for _, raw := range all {
			if err := each(raw); err != nil {
				return err
			}
		}
		if next == nil {
			return nil
		}
		query = "?" + url.Values{"after": {*next}}.Encode()
	}
}

type parkedShowCmd struct {
	Trigger string `arg:"" help:"The trigger's name."`
	ID      string `arg:"" help:"The id that the list shows."`
	remote
}

func (c *parkedShowCmd) Run(ctx context.Context, std stdio) error {
	answer, err := c.askItems(ctx, http.MethodGet, nil, nil, items.ParkedStream, c.Trigger, c.ID)
	if err != nil {
		return err
	}
	return printPretty(std, answer)
}

// parkedOnes names what is parked of a trigger.
type parkedOnes struct {
	Trigger string   `arg:"" help:"The trigger's name."`
	IDs     []string `arg:"" optional:"" name:"id" help:"Ids that the list shows."`
	All     bool     `help:"All that is parked of the trigger."`
	remote
}

// Validate checks that something is named.
func (p *parkedOnes) Validate() error {
	if p.All == (len(p.IDs) > 0) {
		return usagef("give ids, or --all")
	}
	return nil
}

// do makes a request about each.
func (p *parkedOnes) do(ctx context.Context, method string, body []byte) error {
	ids := p.IDs
	if p.All {
		err := p.pages(ctx, "items", []string{items.ParkedStream, p.Trigger}, func(raw json.RawMessage) error {
			var line parkedLine
			err := json.Unmarshal(raw, &line)
			ids = append(ids, line.ID)
			return err
		})
		if err != nil {
			return err
		}
	}
	exists := http.Header{"If-Match": {"*"}}
	for _, id := range ids {
		if _, err := p.askItems(ctx, method, body, exists, items.ParkedStream, p.Trigger, id); err != nil {
			return fmt.Errorf("%s of %s: %w", id, p.Trigger, err)
		}
	}
	return nil
}

type parkedReplayCmd struct{ parkedOnes }

func (c *parkedReplayCmd) Run(ctx context.Context) error {
	return c.do(ctx, http.MethodPatch, []byte(`[{"type":"set","path":"replay","value":true}]`))
}

type parkedDropCmd struct{ parkedOnes }

func (c *parkedDropCmd) Run(ctx context.Context) error { return c.do(ctx, http.MethodDelete, nil) }

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
)

type createCmd struct {
	Stream        string        `arg:"" help:"A stream's name or URL."`
	ContentType   string        `help:"The stream's content type." default:"application/octet-stream" placeholder:"TYPE"`
	TTL           time.Duration `name:"ttl" help:"Let the stream expire when it was neither read nor written for this time." placeholder:"TIME"`
	Expires       time.Time     `help:"Let the stream expire at this time, for example 2030-01-31T12:00:00Z." format:"2006-01-02T15:04:05Z07:00" placeholder:"TIME"`
	RetainAge     time.Duration `help:"Keep entries for this time." placeholder:"TIME"`
	RetainBytes   byteSize      `help:"Keep so many bytes, the latest." placeholder:"SIZE"`
	RetainEntries uint64        `help:"Keep so many entries, the latest: messages of a JSON stream, appends of any other." placeholder:"N"`
	Closed        bool          `help:"Create it closed."`
	remote
}

func (c *createCmd) Validate() error {
	if c.TTL != 0 && !c.Expires.IsZero() {
		return errors.New("--ttl and --expires exclude each other")
	}
	if c.TTL < 0 || c.RetainAge < 0 {
		return errors.New("--ttl and --retain-age must not be negative")
	}
	return nil
}

func (c *createCmd) Run(ctx context.Context, std stdio) error {
	client, err := c.client(c.Stream)
	if err != nil {
		return err
	}
	created, err := client.Create(ctx, c.Stream, dsclient.CreateOptions{
		ContentType: c.ContentType,
		TTL:         c.TTL,
		ExpiresAt:   c.Expires,
		Retention:   runnel.Retention{Age: c.RetainAge, Bytes: uint64(c.RetainBytes), Entries: c.RetainEntries},
		Closed:      c.Closed,
	})
	if err == nil && created.Existed {
		std.note("%s was there already", c.Stream)
	}
	return err
}

type forkCmd struct {
	Source string `arg:"" help:"The stream to fork."`
	New    string `arg:"" help:"The stream to create."`
	At     string `help:"Inherit what is before this offset; otherwise everything." placeholder:"OFFSET"`
	Sub    uint64 `help:"Inherit so many messages of a JSON stream, or bytes of any other, beyond --at." placeholder:"N"`
	remote
}

func (c *forkCmd) Run(ctx context.Context, std stdio) error {
	client, err := c.client(c.Source, c.New)
	if err != nil {
		return err
	}
	created, err := client.Create(ctx, c.New, dsclient.CreateOptions{
		Fork: &dsclient.Fork{Source: c.Source, At: dsclient.Offset(c.At), Sub: c.Sub},
	})
	if err == nil && created.Existed {
		std.note("%s was there already", c.New)
	}
	return err
}

type closeCmd struct {
	Stream string `arg:"" help:"A stream's name or URL."`
	remote
}

func (c *closeCmd) Run(ctx context.Context) error {
	client, err := c.client(c.Stream)
	if err != nil {
		return err
	}
	_, err = client.Close(ctx, c.Stream)
	return err
}

type rmCmd struct {
	Streams []string `arg:"" help:"Names or URLs of streams."`
	Force   bool     `short:"f" help:"Do not mind streams that are not there, or are deleted but kept for their forks."`
	remote
}

func (c *rmCmd) Run(ctx context.Context) error {
	client, err := c.client(c.Streams...)
	if err != nil {
		return err
	}
	for _, stream := range c.Streams {
		err := client.Delete(ctx, stream)
		if err != nil && !(c.Force && (errors.Is(err, runnel.ErrNotFound) || errors.Is(err, runnel.ErrSoftDeleted))) {
			return err
		}
	}
	return nil
}

type statCmd struct {
	Stream string `arg:"" help:"A stream's name or URL."`
	JSON   bool   `name:"json" help:"Print JSON."`
	remote
}

// description is what stat prints as JSON.
type description struct {
	URL              string          `json:"url"`
	ContentType      string          `json:"contentType"`
	Offset           dsclient.Offset `json:"offset"`
	EarliestOffset   dsclient.Offset `json:"earliestOffset,omitempty"`
	Closed           bool            `json:"closed"`
	TTLSeconds       int64           `json:"ttlSeconds,omitempty"`
	ExpiresAt        *time.Time      `json:"expiresAt,omitempty"`
	RetentionSeconds int64           `json:"retentionSeconds,omitempty"`
	RetentionBytes   uint64          `json:"retentionBytes,omitempty"`
	RetentionEntries uint64          `json:"retentionEntries,omitempty"`
}

func (c *statCmd) Run(ctx context.Context, std stdio) error {
	client, err := c.client(c.Stream)
	if err != nil {
		return err
	}
	info, err := client.Stat(ctx, c.Stream)
	if err != nil {
		return err
	}
	url, err := client.URL(c.Stream)
	if err != nil {
		return err
	}
	if c.JSON {
		d := description{
			URL: url, ContentType: info.ContentType, Offset: info.Offset, EarliestOffset: info.Earliest, Closed: info.Closed,
			TTLSeconds: int64(info.TTL / time.Second), RetentionSeconds: int64(info.Retention.Age / time.Second),
			RetentionBytes: info.Retention.Bytes, RetentionEntries: info.Retention.Entries,
		}
		if !info.ExpiresAt.IsZero() {
			d.ExpiresAt = &info.ExpiresAt
		}
		return json.NewEncoder(std.out).Encode(d)
	}
	t := tabwriter.NewWriter(std.out, 0, 0, 2, ' ', 0) // keeps an error until it is flushed
	row := func(name string, value any, show bool) {
		if show {
			_, _ = fmt.Fprintf(t, "%s\t%v\n", name, value)
		}
	}
	row("URL", url, true)
	row("content type", info.ContentType, true)
	row("offset", info.Offset, true)
	row("earliest offset", info.Earliest, info.Earliest != "")
	row("closed", info.Closed, true)
	row("ttl", info.TTL, info.TTL > 0)
	row("expires at", info.ExpiresAt.Format(time.RFC3339), !info.ExpiresAt.IsZero())
	row("keeps", keeps(info.Retention), info.Retention != runnel.Retention{})
	return t.Flush()
}

func keeps(r runnel.Retention) string {
	var parts []string
	if r.Age > 0 {
		parts = append(parts, r.Age.String())
	}
	if r.Bytes > 0 {
		parts = append(parts, fmt.Sprintf("%d bytes", r.Bytes))
	}
	if r.Entries > 0 {
		parts = append(parts, fmt.Sprintf("%d entries", r.Entries))
	}
	return strings.Join(parts, ", ")
}

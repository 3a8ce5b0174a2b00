package dsclient_test

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
	"github.com/runnelhq/runnel/wire"
)

func TestAStreamIsCreatedAsAskedForAndSaysSo(t *testing.T) {
	c := newClient(t)
	expires := time.Now().Add(time.Hour).UTC().Truncate(time.Second)
	for name, o := range map[string]dsclient.CreateOptions{
		"plain":                   {ContentType: "text/plain; charset=utf-8"},
		"with ttl & retention":    {ContentType: "application/json", TTL: 90 * time.Second, Retention: runnel.Retention{Age: time.Hour, Bytes: 1 << 30, Entries: 1000}},
		"dir/expires, 100% sure?": {ContentType: "a/b", ExpiresAt: expires},
		"closed":                  {ContentType: "a/b", Closed: true, Body: []byte("all")},
	} {
		created, err := c.Create(t.Context(), name, o)
		if err != nil || created.Existed || created.Closed != o.Closed {
			t.Fatalf("%s: %+v %v", name, created, err)
		}
		if again, err := c.Create(t.Context(), name, o); err != nil || !again.Existed {
			t.Errorf("%s again: %+v %v", name, again, err)
		}
		info, err := c.Stat(t.Context(), name)
		want := dsclient.Info{
			ContentType: o.ContentType, Offset: created.Offset, Closed: o.Closed,
			TTL: o.TTL, ExpiresAt: o.ExpiresAt, Retention: o.Retention,
		}
		if info.ExpiresAt.Equal(want.ExpiresAt) {
			info.ExpiresAt = want.ExpiresAt
		}
		if err != nil || info != want {
			t.Errorf("%s: got %+v %v, want %+v", name, info, err, want)
		}
	}
}

func TestAppendsCanHaveConditions(t *testing.T) {
	c := newClient(t)
	create(t, c, "a", "")
	first := appendTo(t, c, "a", "one")
	if _, err := c.Append(t.Context(), "a", []byte("two"), dsclient.AppendOptions{Expect: first, StreamSeq: "b"}); err != nil {
		t.Fatal(err)
	}
	_, err := c.Append(t.Context(), "a", []byte("three"), dsclient.AppendOptions{Expect: first})
	refused := (*dsclient.Error)(nil)
	if !errors.Is(err, runnel.ErrTailMoved) || !errors.As(err, &refused) || refused.Detail.NextOffset <= string(first) {
		t.Errorf("the tail moved: %v", err)
	}
	if _, err := c.Append(t.Context(), "a", []byte("x"), dsclient.AppendOptions{StreamSeq: "b"}); !errors.Is(err, runnel.ErrStreamSeq) {
		t.Errorf("the same sequence again: %v", err)
	}
	producer := &runnel.Producer{ID: "p"}
	for i, duplicate := range []bool{false, true} {
		a, err := c.Append(t.Context(), "a", []byte("once"), dsclient.AppendOptions{Producer: producer})
		if err != nil || a.Duplicate != duplicate {
			t.Errorf("attempt %d: %+v %v", i, a, err)
		}
	}
	if _, err := c.Append(t.Context(), "a", []byte("x"), dsclient.AppendOptions{Producer: &runnel.Producer{ID: "p", Seq: 5}}); !errors.Is(err, runnel.ErrProducerGap) {
		t.Errorf("a gap: %v", err)
	}
	if got := readAll(t, c, "a"); string(got) != "onetwoonce" {
		t.Errorf("got %q", got)
	}
}

func TestRefusalsAreTyped(t *testing.T) {
	c := newClient(t)
	create(t, c, "a", "")
	for name, do := range map[string]func() error{
		"read": func() error { _, err := c.Read(t.Context(), "missing", ""); return err },
		"stat": func() error { _, err := c.Stat(t.Context(), "missing"); return err },
		"append": func() error {
			_, err := c.Append(t.Context(), "missing", []byte("x"), dsclient.AppendOptions{})
			return err
		},
		"close":  func() error { _, err := c.Close(t.Context(), "missing"); return err },
		"delete": func() error { return c.Delete(t.Context(), "missing") },
		"fork": func() error {
			_, err := c.Create(t.Context(), "b", dsclient.CreateOptions{Fork: &dsclient.Fork{Source: "missing"}})
			return err
		},
	} {
		err := do()
		refused := (*dsclient.Error)(nil)
		if !errors.Is(err, runnel.ErrNotFound) || !errors.As(err, &refused) || refused.Status != 404 {
			t.Errorf("%s: %v", name, err)
		}
		if name != "stat" && refused != nil && (refused.Detail.Code != wire.CodeNotFound || refused.Detail.Message == "") {
			t.Errorf("%s: %+v", name, refused.Detail)
		}
	}
	if _, err := c.Create(t.Context(), "a", dsclient.CreateOptions{ContentType: "text/html"}); !errors.Is(err, runnel.ErrExists) {
		t.Errorf("create with another type: %v", err)
	}
	if _, err := c.Read(t.Context(), "a", "nonsense"); !errors.Is(err, runnel.ErrInvalid) {
		t.Errorf("read from nonsense: %v", err)
	}
}

func TestAClosedStreamSaysWhereItEnds(t *testing.T) {
	c := newClient(t)
	create(t, c, "a", "")
	end := appendTo(t, c, "a", "x")
	closed, err := c.Close(t.Context(), "a")
	if err != nil || !closed.Closed || closed.Offset != end {
		t.Errorf("got %+v %v", closed, err)
	}
	_, err = c.Append(t.Context(), "a", []byte("y"), dsclient.AppendOptions{})
	refused := (*dsclient.Error)(nil)
	if !errors.Is(err, runnel.ErrClosed) || !errors.As(err, &refused) || refused.Detail.NextOffset != string(end) {
		t.Errorf("got %v", err)
	}
	r, err := c.Read(t.Context(), "a", "")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	if data, err := io.ReadAll(r); err != nil || string(data) != "x" || !r.Closed() || r.Offset() != end {
		t.Errorf("read %q to %s, closed %t: %v", data, r.Offset(), r.Closed(), err)
	}
}

func TestAListingGoesOverAllItsPages(t *testing.T) {
	c := newClient(t)
	const streams = 1005
	for i := range streams {
		create(t, c, fmt.Sprintf("many/%04d", i), "text/plain")
	}
	if _, err := c.Create(t.Context(), "other", dsclient.CreateOptions{TTL: time.Minute, Closed: true, Body: []byte("x")}); err != nil {
		t.Fatal(err)
	}
	n := 0
	for s, err := range c.List(t.Context(), "many/") {
		if err != nil {
			t.Fatal(err)
		}
		if want := fmt.Sprintf("many/%04d", n); s.Stream != want || s.ContentType != "text/plain" || time.Since(s.Created) > time.Minute {
			t.Fatalf("got %+v, want %s", s, want)
		}
		n++
	}
	if n != streams {
		t.Errorf("got %d streams of %d", n, streams)
	}
	for s, err := range c.List(t.Context(), "other") {
		if err != nil || !s.Closed || s.TTL != time.Minute || s.Offset == "" {
			t.Errorf("got %+v %v", s, err)
		}
	}
}

func TestAForkBeginsWithItsSource(t *testing.T) {
	c := newClient(t)
	create(t, c, "dir/a b", "")
	first := appendTo(t, c, "dir/a b", "one")
	appendTo(t, c, "dir/a b", "two")
	for name, fork := range map[string]dsclient.Fork{
		"onetwo": {Source: "dir/a b"},
		"one":    {Source: "dir/a b", At: first},
		"onetw":  {Source: c.Base + "/dir/a%20b", At: first, Sub: 2},
	} {
		if _, err := c.Create(t.Context(), name, dsclient.CreateOptions{Fork: &fork}); err != nil {
			t.Fatal(name, err)
		}
		if got := readAll(t, c, name); string(got) != name {
			t.Errorf("%s: got %q", name, got)
		}
	}
	if err := c.Delete(t.Context(), "dir/a b"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Stat(t.Context(), "dir/a b"); !errors.Is(err, runnel.ErrSoftDeleted) {
		t.Errorf("the source after its deletion: %v", err)
	}
}

func TestAReadOverAnUnreliableNetworkIsComplete(t *testing.T) {
	c := newClient(t)
	create(t, c, "a", "")
	want := noise(20_000)
	for i := 0; i < len(want); i += 1000 {
		appendTo(t, c, "a", string(want[i:i+1000]))
	}
	network := newUnreliable(7)
	c.HTTP = &http.Client{Transport: network}
	for range 20 {
		r, err := c.Read(t.Context(), "a", "")
		if err != nil {
			continue // the first request is not repeated
		}
		got, err := io.ReadAll(r)
		if err != nil || !bytes.Equal(got, want) {
			t.Errorf("got %d bytes, which differ from the %d appended: %v", len(got), len(want), err)
		}
		if err := r.Close(); err != nil {
			t.Error(err)
		}
	}
	if network.faults < 10 {
		t.Errorf("only %d faults happened", network.faults)
	}
}

func TestAReadDoesNotGoOnInAnotherStreamOfTheSameName(t *testing.T) {
	c := newClient(t)
	create(t, c, "a", "")
	appendTo(t, c, "a", strings.Repeat("old", 1000))
	gets := 0
	c.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		resp, err := http.DefaultTransport.RoundTrip(r)
		if gets++; err == nil && gets == 1 {
			resp.Body = &cut{ReadCloser: resp.Body, left: 100}
		}
		return resp, err
	})}
	r, err := c.Read(t.Context(), "a", "")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	again := &dsclient.Client{Base: c.Base}
	if err := again.Delete(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	create(t, again, "a", "")
	appendTo(t, again, "a", strings.Repeat("new", 1000))
	if got, err := io.ReadAll(r); !errors.Is(err, runnel.ErrNotFound) || len(got) != 100 {
		t.Errorf("got %d bytes and %v", len(got), err)
	}
}

func TestTheNameOfAStreamBecomesItsURL(t *testing.T) {
	c := &dsclient.Client{Base: "http://host/v1/stream/"}
	for name, want := range map[string]string{
		"a":                         "http://host/v1/stream/a",
		"a/b c/d?e#f":               "http://host/v1/stream/a/b%20c/d%3Fe%23f",
		"é%41":                      "http://host/v1/stream/%C3%A9%2541",
		"https://other/x%20y?q=1#f": "https://other/x%20y",
	} {
		if got, err := c.URL(name); err != nil || got != want {
			t.Errorf("%s: got %s %v, want %s", name, got, err, want)
		}
	}
	for _, name := range []string{"", "http://bad url/%zz"} {
		if got, err := c.URL(name); err == nil {
			t.Errorf("%q became %s", name, got)
		}
	}
	if got, err := new(dsclient.Client).URL("a"); err == nil {
		t.Errorf("without a base: %s", got)
	}
}

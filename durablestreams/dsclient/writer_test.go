package dsclient_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams/dsclient"
)

func create(tb testing.TB, c *dsclient.Client, stream, contentType string) {
	tb.Helper()
	if _, err := c.Create(tb.Context(), stream, dsclient.CreateOptions{ContentType: contentType}); err != nil {
		tb.Fatal(err)
	}
}

func readAll(tb testing.TB, c *dsclient.Client, stream string) []byte {
	tb.Helper()
	r, err := c.Read(tb.Context(), stream, dsclient.Start)
	if err != nil {
		tb.Fatal(err)
	}
	defer r.Close()
	data, err := io.ReadAll(r)
	if err != nil {
		tb.Fatal(err)
	}
	return data
}

// noise returns bytes that tell their places apart.
func noise(n int) []byte {
	b := make([]byte, n)
	source := rand.NewChaCha8([32]byte{1})
	_, _ = source.Read(b)
	return b
}

func TestWhatIsWrittenOverAnUnreliableNetworkIsThereInOrderAndOnce(t *testing.T) {
	for seed := range uint64(5) {
		c := newClient(t)
		create(t, c, "a", "")
		network := newUnreliable(seed)
		c.HTTP = &http.Client{Transport: network}
		w := c.NewWriter(t.Context(), "a", dsclient.WriterOptions{BatchBytes: 500, InFlight: 4})
		want := noise(100_000)
		for rest := want; len(rest) > 0; {
			n, err := w.Write(rest[:min(len(rest), 700)])
			if err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if acked := w.Acked(); acked.Bytes != int64(len(want)) {
			t.Errorf("seed %d: %d of %d bytes are acknowledged", seed, acked.Bytes, len(want))
		}
		c.HTTP = nil
		if got := readAll(t, c, "a"); !bytes.Equal(got, want) {
			t.Errorf("seed %d: got %d bytes, which differ from the %d written", seed, len(got), len(want))
		}
		if network.faults < 50 {
			t.Errorf("seed %d: only %d faults happened", seed, network.faults)
		}
	}
}

func TestEveryWriteToAJSONStreamIsOneMessage(t *testing.T) {
	c := newClient(t)
	create(t, c, "a", "application/json")
	w := c.NewWriter(t.Context(), "a", dsclient.WriterOptions{ContentType: "application/json", BatchBytes: 50})
	e := json.NewEncoder(w)
	for _, message := range []any{1, "two", []int{3, 3, 3}, []any{}, map[string]int{"five": 5}, nil, strings.Repeat("x", 100)} {
		if err := e.Encode(message); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.Write([]byte(`{"half":`)); err == nil {
		t.Error("half a message was accepted")
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	r, err := c.Read(t.Context(), "a", "")
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var got []string
	for message, err := range r.Messages() {
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, string(message))
	}
	want := []string{"1", `"two"`, "[3,3,3]", "[]", `{"five":5}`, "null", `"` + strings.Repeat("x", 100) + `"`}
	if strings.Join(got, " ") != strings.Join(want, " ") {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestATextStreamIsTextAfterEveryAppend(t *testing.T) {
	c := newClient(t)
	create(t, c, "a", "text/plain")
	c.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodPost {
			body, err := r.GetBody()
			if err != nil {
				return nil, err
			}
			content, err := io.ReadAll(body)
			if err != nil {
				return nil, err
			}
			if !bytes.Equal(bytes.ToValidUTF8(content, nil), content) {
				t.Errorf("an append was %q", content)
			}
		}
		return http.DefaultTransport.RoundTrip(r)
	})}
	w := c.NewWriter(t.Context(), "a", dsclient.WriterOptions{ContentType: "text/plain", BatchBytes: 4})
	want := strings.Repeat("aé日🙂", 20)
	for i := range len(want) {
		if _, err := io.WriteString(w, want[i:i+1]); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c, "a"); string(got) != want {
		t.Errorf("got %q", got)
	}
}

type roundTrip func(*http.Request) (*http.Response, error)

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestAWriterOfTheSameNameAndDataAddsOnlyWhatIsMissing(t *testing.T) {
	c := newClient(t)
	create(t, c, "a", "")
	want := noise(10_500)
	options := dsclient.WriterOptions{Producer: "import", BatchBytes: 1000, Linger: -1}
	ctx, crash := context.WithCancel(t.Context())
	first := c.NewWriter(ctx, "a", options)
	if _, err := first.Write(want[:4200]); err != nil {
		t.Fatal(err)
	}
	// Whole batches only: what waits in the writer goes down with it.
	for first.Acked().Batches < 4 {
		select {
		case <-first.Done():
			t.Fatal(first.Close())
		default:
		}
	}
	crash()
	if err := first.Close(); !errors.Is(err, context.Canceled) {
		t.Errorf("the first writer ended with %v", err)
	}

	var posts atomic.Int64
	c.HTTP = &http.Client{Transport: roundTrip(func(r *http.Request) (*http.Response, error) {
		if r.Method == http.MethodPost {
			posts.Add(1)
		}
		return http.DefaultTransport.RoundTrip(r)
	})}
	options.InFlight = 1 // so that no batch overtakes another and is sent twice
	second := c.NewWriter(t.Context(), "a", options)
	if _, err := second.Write(want); err != nil {
		t.Fatal(err)
	}
	if err := second.Close(); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c, "a"); !bytes.Equal(got, want) {
		t.Errorf("got %d bytes, which differ from the %d written", len(got), len(want))
	}
	if acked := second.Acked(); acked.Duplicates != 4 || acked.Batches != 11 {
		t.Errorf("acknowledged %+v", acked)
	}
	if n := posts.Load(); n != 8 {
		t.Errorf("%d requests were sent; the server said with the first that it has 4 batches", n)
	}
}

func TestAWriterClosesTheStreamBehindItsData(t *testing.T) {
	c := newClient(t)
	for name, data := range map[string]string{"with-data": "last words", "without": ""} {
		create(t, c, name, "")
		w := c.NewWriter(t.Context(), name, dsclient.WriterOptions{CloseStream: true})
		if _, err := io.WriteString(w, data); err != nil {
			t.Fatal(err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if info, err := c.Stat(t.Context(), name); err != nil || !info.Closed || !w.Acked().Closed {
			t.Errorf("%s: %+v %v", name, info, err)
		}
		if got := readAll(t, c, name); string(got) != data {
			t.Errorf("%s: got %q", name, got)
		}
	}
}

func TestAWriterTellsWhyItCannotGoOn(t *testing.T) {
	c := newClient(t)
	create(t, c, "closed", "")
	if _, err := c.Close(t.Context(), "closed"); err != nil {
		t.Fatal(err)
	}
	create(t, c, "other-type", "text/plain")
	for stream, want := range map[string]error{
		"missing": runnel.ErrNotFound, "closed": runnel.ErrClosed, "other-type": runnel.ErrContentType,
	} {
		w := c.NewWriter(t.Context(), stream, dsclient.WriterOptions{})
		if _, err := io.WriteString(w, "x"); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Flush(); !errors.Is(err, want) {
			t.Errorf("%s: Flush returned %v", stream, err)
		}
		if _, err := io.WriteString(w, "y"); !errors.Is(err, want) {
			t.Errorf("%s: Write returned %v", stream, err)
		}
		if err := w.Close(); !errors.Is(err, want) {
			t.Errorf("%s: Close returned %v", stream, err)
		}
	}
}

func TestALaterEpochShutsOutAnEarlierWriter(t *testing.T) {
	c := newClient(t)
	create(t, c, "a", "")
	write := func(o dsclient.WriterOptions, data string) (*dsclient.Writer, error) {
		o.Producer = "p"
		w := c.NewWriter(t.Context(), "a", o)
		_, err := io.WriteString(w, data)
		if err == nil {
			_, err = w.Flush()
		}
		return w, err
	}
	old, err := write(dsclient.WriterOptions{Epoch: 3}, "a")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := write(dsclient.WriterOptions{}, "b"); !errors.Is(err, runnel.ErrProducerFenced) {
		t.Errorf("epoch 0 after 3: %v", err)
	}
	claimed, err := write(dsclient.WriterOptions{Claim: true}, "c")
	if err != nil {
		t.Fatal(err)
	}
	if _, epoch := claimed.Producer(); epoch != 4 {
		t.Errorf("it claimed epoch %d", epoch)
	}
	if _, err := io.WriteString(old, "d"); err != nil {
		t.Fatal(err)
	}
	if err := old.Close(); !errors.Is(err, runnel.ErrProducerFenced) {
		t.Errorf("the old writer: %v", err)
	}
	if err := claimed.Close(); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c, "a"); string(got) != "ac" {
		t.Errorf("got %q", got)
	}
}

func TestABatchThatOvertookAnotherIsSentAgain(t *testing.T) {
	// The second batch is held back until the third has been refused.
	handler, refused := newHandler(t), make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Producer-Seq") == "1" {
			select {
			case <-refused:
			case <-time.After(10 * time.Second):
				t.Error("the third batch was not sent while the second was under way")
			}
		}
		handler.ServeHTTP(w, r)
		if r.Header.Get("Producer-Seq") == "2" && w.Header().Get("Producer-Expected-Seq") != "" {
			close(refused)
		}
	}))
	defer server.Close()
	c := &dsclient.Client{Base: server.URL + "/v1/stream", Backoff: fast}
	create(t, c, "a", "")
	w := c.NewWriter(t.Context(), "a", dsclient.WriterOptions{BatchBytes: 4, Retrying: func(err error, _ time.Duration) {
		t.Errorf("it waited because of %v", err)
	}})
	if _, err := io.WriteString(w, "aaaabbbbcccc"); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	if got := readAll(t, c, "a"); string(got) != "aaaabbbbcccc" {
		t.Errorf("got %q", got)
	}
}

func TestAWriterIsStoppedByItsContextWhileTheServerIsAway(t *testing.T) {
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	c := &dsclient.Client{Base: server.URL, Backoff: fast}
	ctx, cancel := context.WithCancel(t.Context())
	retried := make(chan struct{}, 1)
	w := c.NewWriter(ctx, "a", dsclient.WriterOptions{BatchBytes: 4, Retrying: func(error, time.Duration) {
		select {
		case retried <- struct{}{}:
		default:
		}
	}})
	written := make(chan error, 1)
	go func() {
		_, err := w.Write(make([]byte, 1000)) // more than may be under way
		written <- err
	}()
	<-retried
	cancel()
	if err := <-written; !errors.Is(err, context.Canceled) {
		t.Errorf("Write returned %v", err)
	}
	if err := w.Close(); !errors.Is(err, context.Canceled) {
		t.Errorf("Close returned %v", err)
	}
	if acked := w.Acked(); acked != (dsclient.Acked{}) {
		t.Errorf("acknowledged %+v", acked)
	}
}

func BenchmarkWriter(b *testing.B) {
	c := newClient(b)
	if _, err := c.Create(b.Context(), "a", dsclient.CreateOptions{}); err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{100, 64 << 10} {
		b.Run(fmt.Sprintf("write=%dB", size), func(b *testing.B) {
			w := c.NewWriter(b.Context(), "a", dsclient.WriterOptions{})
			data := make([]byte, size)
			b.SetBytes(int64(size))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := w.Write(data); err != nil {
					b.Fatal(err)
				}
			}
			if err := w.Close(); err != nil {
				b.Fatal(err)
			}
		})
	}
}

package durablestreams

import (
	"io"
	"net/http/httptest"
	"testing"
)

// growing delivers a body in pieces and looks at what is held for what it has delivered.
type growing struct {
	t    *testing.T
	b    *body
	got  int64
	size int64
}

func (g *growing) Read(p []byte) (int, error) {
	if most := max(2*firstBytes, 2*min(g.got, doubledBytes), g.got*3/2+1); g.b.held > most {
		g.t.Errorf("%d bytes are held for %d", g.b.held, g.got)
	}
	if g.got == g.size {
		return 0, io.EOF
	}
	n := min(len(p), 10_000, int(g.size-g.got))
	g.got += int64(n)
	return n, nil
}

func (g *growing) Close() error { return nil }

func TestABodyHoldsLittleMoreThanHasArrived(t *testing.T) {
	for _, length := range []int64{-1, 20 << 20} {
		h := New(nowhere{}, Config{NoRegistry: true})
		b := new(body)
		r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/stream/a", nil)
		r.Body, r.ContentLength = &growing{t: t, b: b, size: 20 << 20}, length
		if err := h.fill(b, httptest.NewRecorder(), r); err != nil || len(b.bytes) != 20<<20 {
			t.Errorf("%d bytes, %v", len(b.bytes), err)
		}
		h.release(b)
	}
}

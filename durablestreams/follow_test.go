package durablestreams_test

import (
	"context"
	"net/http"
	"testing"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/durablestreams"
	"github.com/runnelhq/runnel/wire"
)

// A fork that is there is found whatever has become of what it was forked from.
func TestAForkIsFoundThoughItsSourceIsDeletedSince(t *testing.T) {
	for _, asked := range []bool{false, true} {
		var cfg durablestreams.Config
		if asked {
			cfg.Follow = func(*http.Request, runnel.Segment, string) (context.Context, func(), error) {
				return context.Background(), func() {}, nil
			}
		}
		s := serve(t, cfg)
		s.put("source", "text/plain", "x").want(201)
		s.put("fork", "", "", "Stream-Forked-From", "/v1/stream/source").want(201)
		s.put("fork", "", "", "Stream-Forked-From", "/v1/stream/source").want(200)
		s.do("DELETE", "source", "").want(204)
		s.put("fork", "", "", "Stream-Forked-From", "/v1/stream/source").want(200)
		s.put("another", "", "", "Stream-Forked-From", "/v1/stream/source").wantError(409, wire.CodeSoftDeleted)
	}
}

package durablestreams

import (
	"bytes"
	"encoding/json"
	"net/http"
	"strconv"

	"github.com/runnelhq/runnel/wire"
)

// writeFailure answers with the one shape that all errors have.
func writeFailure(w http.ResponseWriter, f *wire.Error) {
	header := w.Header()
	for i := 0; i+1 < len(f.Headers); i += 2 {
		header[f.Headers[i]] = []string{f.Headers[i+1]}
	}
	body := encodeJSON(f.NewBody())
	header[wire.HeaderContentType] = valueJSON
	header[wire.HeaderCacheControl] = valueNoStore
	header[headerContentLength] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(f.Status)
	w.Write(body)
}

// encodeJSON returns v as JSON without the escapes that only HTML needs. V always has a JSON form.
func encodeJSON(v any) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(v); err != nil {
		panic(err)
	}
	return b.Bytes()
}

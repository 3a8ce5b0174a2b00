package durablestreams

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// Header values that never change are shared by all responses, which saves an allocation for each. They
// have no spare capacity, so that whoever adds a value gets a copy.
var (
	valueTrue     = []string{"true"}
	valueZero     = []string{"0"}
	valueNoStore  = []string{"no-store"}
	valueJSON     = []string{"application/json"}
	valueNosniff  = []string{"nosniff"}
	valueCross    = []string{"cross-origin"}
	valueAny      = []string{"*"}
	valueOrigin   = []string{"Origin"}
	valueWho      = []string{"Authorization"}
	valueBoth     = []string{"Origin, Authorization"}
	valueClose    = []string{"close"}
	valueBase64   = []string{"base64"}
	valueAttach   = []string{"attachment"}
	valueEvents   = []string{"text/event-stream"}
	valueNoCache  = []string{"no-cache, no-transform"}
	valueNo       = []string{"no"}
	valueExposed  = []string{exposedHeaders}
	valueAllowed  = []string{requestHeaders}
	valueMethods  = []string{streamMethods}
	valueReadOnly = []string{"GET, HEAD, OPTIONS"}
	valueRegistry = []string{"GET, HEAD, PUT, OPTIONS"}
	valueDay      = []string{"86400"}
)

const streamMethods = "GET, HEAD, POST, PUT, DELETE, OPTIONS"

// exposedHeaders are the response headers that a script of another origin may read. Caching, length and
// type are listed for those browsers that do not count them as safe.
const exposedHeaders = "Stream-Next-Offset, Stream-Up-To-Date, Stream-Closed, Stream-Cursor, Stream-TTL, " +
	"Stream-Expires-At, Stream-Earliest-Offset, Stream-Retention-Age, Stream-Retention-Bytes, " +
	"Stream-Retention-Count, Stream-Items, Stream-State, Stream-SSE-Data-Encoding, Producer-Epoch, Producer-Seq, Producer-Expected-Seq, " +
	"Producer-Received-Seq, WWW-Authenticate, ETag, Location, Retry-After, Allow, Cache-Control, Content-Length, Content-Type, Date"

// requestHeaders are the request headers that a script of another origin may send. The star admits all
// others on requests without credentials; Authorization is never part of it.
const requestHeaders = "Authorization, Content-Type, If-Match, If-None-Match, Last-Event-ID, Cache-Control, " +
	"Stream-Seq, Stream-TTL, Stream-Expires-At, Stream-Closed, Stream-Forked-From, Stream-Fork-Offset, " +
	"Stream-Fork-Sub-Offset, Stream-Retention-Age, Stream-Retention-Bytes, Stream-Retention-Count, " +
	"Stream-Items, Producer-Id, Producer-Epoch, Producer-Seq, Runnel-Store, *"

// Canonical names of headers that only this side uses.
const (
	headerNosniff       = "X-Content-Type-Options"
	headerCORP          = "Cross-Origin-Resource-Policy"
	headerAllowOrigin   = "Access-Control-Allow-Origin"
	headerExpose        = "Access-Control-Expose-Headers"
	headerAllowMethods  = "Access-Control-Allow-Methods"
	headerAllowHeaders  = "Access-Control-Allow-Headers"
	headerMaxAge        = "Access-Control-Max-Age"
	headerVary          = "Vary"
	headerOrigin        = "Origin"
	headerConnection    = "Connection"
	headerContentLength = "Content-Length"
	headerDisposition   = "Content-Disposition"
	headerEncoding      = "Content-Encoding"
	headerBuffering     = "X-Accel-Buffering"
)

// decorate sets what every response carries: protection against sniffing and embedding, and what lets
// browsers of the allowed origins read it. Source: PROTOCOL.md, section 12.7.
func (h *Handler) decorate(header http.Header, r *http.Request) {
	header["Date"] = dateNow()
	header[headerNosniff] = valueNosniff
	header[headerCORP] = valueCross
	if h.cfg.Admit != nil { // a browser must not show one user what it keeps of another
		header[headerVary] = valueWho
	}
	if h.origins == nil {
		header[headerAllowOrigin] = valueAny
		header[headerExpose] = valueExposed
		return
	}
	header[headerVary] = valueOrigin
	if h.cfg.Admit != nil {
		header[headerVary] = valueBoth
	}
	if origin, ok := h.origins[r.Header.Get(headerOrigin)]; ok {
		header[headerAllowOrigin] = origin
		header[headerExpose] = valueExposed
	}
}

// preflight answers OPTIONS, which browsers send before a request that is not simple.
func (h *Handler) preflight(w http.ResponseWriter) {
	header := w.Header()
	header[wire.HeaderAllow] = valueMethods
	if header[headerAllowOrigin] != nil {
		header[headerAllowMethods] = valueMethods
		header[headerAllowHeaders] = valueAllowed
		header[headerMaxAge] = valueDay
	}
	w.WriteHeader(http.StatusNoContent)
}

// values holds the values of the headers of one response that are not shared, in one allocation.
type values struct {
	offset, epoch, seq [1]string
}

// setOffset sets Stream-Next-Offset.
func (v *values) setOffset(header http.Header, s runnel.Sequence) {
	v.offset[0] = s.Offset()
	header[wire.HeaderNextOffset] = v.offset[:]
}

// setProducer sets what is echoed to a producer.
func (v *values) setProducer(header http.Header, epoch, seq uint64) {
	v.epoch[0] = strconv.FormatUint(epoch, 10)
	v.seq[0] = strconv.FormatUint(seq, 10)
	header[wire.HeaderProducerEpoch] = v.epoch[:]
	header[wire.HeaderProducerSeq] = v.seq[:]
}

// single returns the value of a header that may be given once, and whether it is given.
func single(header http.Header, name string) (string, bool, error) {
	switch v := header[name]; len(v) {
	case 0:
		return "", false, nil
	case 1:
		return v[0], true, nil
	default:
		return "", true, wire.Invalid(wire.CodeInvalidRequest, name+" is given more than once")
	}
}

// closes tells whether the request closes the stream. Everything but one header of the value true, in any
// case, counts as no header at all. Source: PROTOCOL.md, section 4.1.
func closes(header http.Header) bool {
	v := header[wire.HeaderClosed]
	return len(v) == 1 && strings.EqualFold(v[0], "true")
}

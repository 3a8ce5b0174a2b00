package durablestreams

import (
	"net/http"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// delete answers DELETE. Source: PROTOCOL.md, section 5.4.
func (h *Handler) delete(w http.ResponseWriter, r *http.Request, seg runnel.Segment) error {
	if len(r.Header[wire.HeaderIfMatch]) > 0 || len(r.Header[wire.HeaderIfNoneMatch]) > 0 {
		return wire.Invalid(wire.CodeInvalidRequest, "If-Match and If-None-Match are not supported on DELETE")
	}
	if err := h.log.Delete(r.Context(), seg); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

package durablestreams

import (
	"net/http"
	"strconv"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// head answers HEAD. Source: PROTOCOL.md, section 5.5.
func (h *Handler) head(w http.ResponseWriter, r *http.Request, seg runnel.Segment) error {
	info, err := h.log.Stat(r.Context(), seg)
	if err != nil {
		return err
	}
	header := w.Header()
	new(values).setOffset(header, info.Tail)
	header[wire.HeaderContentType] = []string{info.ContentType}
	header[wire.HeaderCacheControl] = valueNoStore
	tag := entityTag(info, info.Earliest)
	header[wire.HeaderETag] = []string{tag}
	if info.Closed {
		header[wire.HeaderClosed] = valueTrue
	}
	if info.Earliest > 0 {
		header[wire.HeaderEarliestOffset] = []string{info.Earliest.Offset()}
	}
	if info.TTL > 0 {
		header[wire.HeaderTTL] = []string{seconds(info.TTL)}
	}
	if !info.ExpiresAt.IsZero() {
		header[wire.HeaderExpiresAt] = []string{info.ExpiresAt.UTC().Format(time.RFC3339Nano)}
	}
	if info.Retention.Age > 0 {
		header[wire.HeaderRetentionAge] = []string{seconds(info.Retention.Age)}
	}
	if info.Retention.Bytes > 0 {
		header[wire.HeaderRetentionBytes] = []string{strconv.FormatUint(info.Retention.Bytes, 10)}
	}
	if info.Retention.Entries > 0 {
		header[wire.HeaderRetentionCount] = []string{strconv.FormatUint(info.Retention.Entries, 10)}
	}
	if info.Items {
		header[wire.HeaderItems] = valueTrue
	}
	if v := r.Header[wire.HeaderIfNoneMatch]; len(v) > 0 && !noneMatch(v, tag) {
		w.WriteHeader(http.StatusNotModified)
		return nil
	}
	w.WriteHeader(http.StatusOK)
	return nil
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }

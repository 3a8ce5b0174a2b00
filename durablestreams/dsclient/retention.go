package dsclient

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

func setRetention(h http.Header, r runnel.Retention) {
	if r.Age > 0 {
		h.Set(wire.HeaderRetentionAge, seconds(r.Age))
	}
	if r.Bytes > 0 {
		h.Set(wire.HeaderRetentionBytes, strconv.FormatUint(r.Bytes, 10))
	}
	if r.Entries > 0 {
		h.Set(wire.HeaderRetentionCount, strconv.FormatUint(r.Entries, 10))
	}
}

func retention(h http.Header) (r runnel.Retention, err error) {
	if r.Age, err = duration(h, wire.HeaderRetentionAge); err != nil {
		return r, err
	}
	for name, to := range map[string]*uint64{wire.HeaderRetentionBytes: &r.Bytes, wire.HeaderRetentionCount: &r.Entries} {
		if v := h.Get(name); v != "" {
			if *to, err = strconv.ParseUint(v, 10, 64); err != nil {
				return r, fmt.Errorf("dsclient: the server's %s: %w", name, err)
			}
		}
	}
	return r, nil
}

// seconds writes a duration in whole seconds, rounded up.
func seconds(d time.Duration) string {
	return strconv.FormatInt(int64((d+time.Second-1)/time.Second), 10)
}

// duration reads a header in seconds; 0 if it is not there.
func duration(h http.Header, name string) (time.Duration, error) {
	v := h.Get(name)
	if v == "" {
		return 0, nil
	}
	n, err := strconv.ParseInt(v, 10, 64)
	if err != nil || n < 0 || n > int64(time.Duration(1<<63-1)/time.Second) {
		return 0, fmt.Errorf("dsclient: the server's %s: %q is no number of seconds", name, v)
	}
	return time.Duration(n) * time.Second, nil
}

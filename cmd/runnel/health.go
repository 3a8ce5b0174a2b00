package main

import (
	"encoding/json"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
)

// health answers the questions of whoever runs the server.
type health struct {
	// failed returns why the log takes no more writes, or nil.
	failed func() error
	// full returns why writes are refused until there is more space, or nil.
	full     func() error
	draining atomic.Bool
	told     sync.Once // that it failed
	log      *slog.Logger
}

// answer is the body of both health checks.
type answer struct {
	Status string `json:"status"`
	Reason string `json:"reason,omitempty"`
}

// before answers /healthz and /readyz and leaves the rest to next. It is no http.ServeMux: that would
// clean the paths of streams.
func (h *health) before(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/healthz":
			h.write(w, r, http.StatusOK, answer{Status: "ok"})
		case "/readyz":
			h.ready(w, r)
		default:
			next.ServeHTTP(w, r)
		}
	})
}

func (h *health) ready(w http.ResponseWriter, r *http.Request) {
	if err := h.failed(); err != nil {
		h.told.Do(func() {
			h.log.Error("the storage failed; nothing is acknowledged until the server is started again", "err", err)
		})
		h.write(w, r, http.StatusServiceUnavailable, answer{Status: "failed", Reason: err.Error()})
		return
	}
	if h.draining.Load() {
		h.write(w, r, http.StatusServiceUnavailable, answer{Status: "draining", Reason: "the server is shutting down"})
		return
	}
	if err := h.full(); err != nil {
		// Readers and whoever makes space by deleting must not be sent away.
		h.write(w, r, http.StatusOK, answer{Status: "full", Reason: err.Error()})
		return
	}
	h.write(w, r, http.StatusOK, answer{Status: "ready"})
}

func (h *health) write(w http.ResponseWriter, r *http.Request, status int, a answer) {
	if r.Method != http.MethodGet && r.Method != http.MethodHead {
		w.Header().Set("Allow", "GET, HEAD")
		status, a = http.StatusMethodNotAllowed, answer{Status: "refused", Reason: "only GET and HEAD are allowed"}
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	if err := json.NewEncoder(w).Encode(a); err != nil {
		h.log.Debug("health check not delivered", "err", err)
	}
}

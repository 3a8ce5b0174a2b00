package webhook

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"
)

// Notification is the body of a webhook request.
type Notification struct {
	Subscription  string   `json:"subscription_id"`
	WakeID        string   `json:"wake_id"`
	Generation    uint64   `json:"generation"`
	Streams       []Stream `json:"streams"`
	CallbackURL   string   `json:"callback_url"`
	CallbackToken string   `json:"callback_token"`
}

// Stream is one stream of a subscription as it was when a wake was sent.
type Stream struct {
	Path        string `json:"path"`
	LinkType    string `json:"link_type"`
	AckedOffset string `json:"acked_offset"`
	TailOffset  string `json:"tail_offset"`
	HasPending  bool   `json:"has_pending"`
}

// Ack says up to where a stream has been processed, inclusive.
type Ack struct {
	Stream string `json:"stream"`
	Offset string `json:"offset"`
}

// ErrFenced is what a callback fails with when its wake is not the current one: its lease ended, or it is
// done. Nothing of the callback counted; stop working on it.
var ErrFenced = errors.New("webhook: the wake is not current any more")

// CallbackError is an answer to a callback that is no success.
type CallbackError struct {
	Status  int
	Code    string
	Message string
}

func (e *CallbackError) Error() string {
	return fmt.Sprintf("webhook: the callback was answered %d %s %s", e.Status, e.Code, quote(e.Message))
}

func (e *CallbackError) Is(target error) bool {
	return target == ErrFenced && e.Status == http.StatusConflict && e.Code == "FENCED"
}

// maxAnswerBytes bounds what is read of an answer to a callback.
const maxAnswerBytes = 64 << 10

// Ack reports progress to the server: it moves the cursors, and lengthens the lease, or with done ends the
// wake. It returns whether the server is going to send another wake. Client may be nil.
func (n *Notification) Ack(ctx context.Context, client *http.Client, acks []Ack, done bool) (next bool, err error) {
	body, err := json.Marshal(map[string]any{
		"wake_id": n.WakeID, "generation": n.Generation, "acks": append([]Ack{}, acks...), "done": done,
	})
	if err != nil {
		return false, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, n.CallbackURL, bytes.NewReader(body))
	if err != nil {
		return false, fmt.Errorf("webhook: call back: %w", err)
	}
	req.Header.Set("Content-Type", "application/json")
	req.Header.Set("Authorization", "Bearer "+n.CallbackToken)
	resp, err := cmp.Or(client, &http.Client{Timeout: callbackTimeout}).Do(req)
	if err != nil {
		return false, fmt.Errorf("webhook: call back: %w", err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswerBytes))
	if err != nil {
		return false, fmt.Errorf("webhook: call back: %w", err)
	}
	var answer struct {
		NextWake bool `json:"next_wake"`
		Error    struct {
			Code    string `json:"code"`
			Message string `json:"message"`
		} `json:"error"`
	}
	_ = json.Unmarshal(data, &answer) // an answer of a proxy is none of ours; its status says enough
	if resp.StatusCode/100 != 2 {
		return false, &CallbackError{Status: resp.StatusCode, Code: answer.Error.Code, Message: answer.Error.Message}
	}
	return answer.NextWake, nil
}

// Tails returns acks of everything that the notification knows of.
func (n *Notification) Tails() []Ack {
	var acks []Ack
	for _, s := range n.Streams {
		if s.HasPending {
			acks = append(acks, Ack{Stream: s.Path, Offset: s.TailOffset})
		}
	}
	return acks
}

const callbackTimeout = 30 * time.Second

// NewHandler returns a receiver: it verifies each request and gives it to handle. If that returns true, the
// answer says that everything the notification knows of has been processed; if it returns false, handle or
// what it started calls back with [Notification.Ack]. An error is answered with 500, and the server tries
// again later. Requests that are not believed are answered with 401 or 400, and not handled.
func NewHandler(v *Verifier, handle func(context.Context, *Notification) (done bool, err error)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPost {
			w.Header().Set("Allow", http.MethodPost)
			http.Error(w, "a webhook is a POST", http.StatusMethodNotAllowed)
			return
		}
		n, err := v.Read(r)
		if err != nil {
			status := http.StatusServiceUnavailable
			if refused, ok := errors.AsType[*SignatureError](err); ok {
				status = http.StatusUnauthorized
				if refused.malformed {
					status = http.StatusBadRequest
				}
			}
			slog.WarnContext(r.Context(), "webhook refused", "err", err)
			http.Error(w, http.StatusText(status), status)
			return
		}
		done, err := handle(r.Context(), n)
		if err != nil {
			slog.ErrorContext(r.Context(), "webhook not handled", "subscription", n.Subscription, "err", err)
			http.Error(w, "not handled", http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = fmt.Fprintf(w, "{\"done\":%t}\n", done)
	})
}

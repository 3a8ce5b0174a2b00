package durablestreams

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/runnelhq/runnel"
	"github.com/runnelhq/runnel/wire"
)

// Subscriptions is all that the paths under __ds need. Its errors match those of package runnel. Who asks
// is in the context as Config.Admit has left it, but for requests that bring a token of a wake.
type Subscriptions interface {
	runnel.SubscriptionLog

	AckWake(ctx context.Context, ref runnel.WakeRef, acks []runnel.WakeAck, done bool) (more bool, err error)
	ReleaseWake(ctx context.Context, ref runnel.WakeRef) error

	// CheckWebhook returns the URL in its one form, or why nothing may be sent there.
	CheckWebhook(url string) (string, error)
	// KeySet is the JSON Web Key Set of a store, SigningKey the id of the key that signs now.
	KeySet(ctx context.Context, store runnel.Store) ([]byte, error)
	SigningKey(ctx context.Context, store runnel.Store) (string, error)
	// ClaimToken returns the token of a wake that was claimed. VerifyToken returns the wake that a token
	// is of; callback tells tokens of webhooks from those of claims. Its error matches
	// runnel.ErrUnauthorized, or wire.ErrTokenExpired if it was good once.
	ClaimToken(ctx context.Context, ref runnel.WakeRef) (string, error)
	VerifyToken(ctx context.Context, callback bool, token string) (runnel.WakeRef, error)
}

// maxControlBytes is the largest body of a request to a control path.
const maxControlBytes = 4 << 20

// control is what a path under __ds names.
type control struct {
	id     string
	action string // a path element, or one of those below
	stream string
}

const (
	controlNone   = ""
	controlKeys   = "jwks.json"
	controlList   = "list"
	controlBase   = "subscription"
	controlStream = "stream"
)

// own tells whether who asks is known by other means than those of all requests: by the token of a wake,
// or not at all.
func (c control) own() bool {
	return c.action == controlKeys || c.action == "callback" || c.action == "ack" || c.action == "release"
}

// controlPath tells whether the path is a reserved one, and what it names. It looks at the path as it was
// sent, so that an id may have an escaped slash in it.
func (h *Handler) controlPath(r *http.Request) (c control, reserved bool) {
	path, ok := strings.CutPrefix(r.URL.Path, h.cfg.Prefix)
	if first, _, _ := strings.Cut(path, "/"); !ok || first != runnel.ReservedElement {
		return c, false
	}
	raw, ok := strings.CutPrefix(r.URL.EscapedPath(), h.cfg.Prefix)
	if !ok {
		raw = path
	}
	parts := strings.Split(raw, "/")
	for i, part := range parts {
		text, err := url.PathUnescape(part)
		if err != nil {
			return c, true
		}
		parts[i] = text
	}
	switch rest := parts[1:]; {
	case len(rest) == 1 && rest[0] == controlKeys:
		c.action = controlKeys
	case len(rest) == 0 || rest[0] != "subscriptions":
	case len(rest) == 1:
		c.action = controlList
	case rest[1] == "":
	case len(rest) == 2:
		c.id, c.action = rest[1], controlBase
	case len(rest) == 3 && slices.Contains([]string{"streams", "callback", "claim", "ack", "release", "replay", "drop"}, rest[2]):
		c.id, c.action = rest[1], rest[2]
	case len(rest) > 3 && rest[2] == "streams":
		c.id, c.action, c.stream = rest[1], controlStream, strings.Join(rest[3:], "/")
	}
	return c, true
}

// serveControl answers a request to a reserved path.
func (h *Handler) serveControl(w http.ResponseWriter, r *http.Request, c control) error {
	if h.cfg.Subscriptions == nil {
		return &wire.Error{
			Status: http.StatusNotImplemented,
			Detail: wire.Detail{Code: wire.CodeNotImplemented, Message: "paths under " + runnel.ReservedElement + " are reserved, and nothing is served there"},
		}
	}
	methods := map[string]func(http.ResponseWriter, *http.Request, control) error{}
	switch c.action {
	case controlKeys:
		methods[http.MethodGet], methods[http.MethodHead] = h.keySet, h.keySet
	case controlList:
		methods[http.MethodGet] = h.listSubscriptions
	case controlBase:
		methods[http.MethodPut], methods[http.MethodGet], methods[http.MethodDelete] = h.putSubscription, h.getSubscription, h.deleteSubscription
	case "streams":
		methods[http.MethodPost] = h.linkStreams
	case controlStream:
		methods[http.MethodDelete] = h.unlinkStream
	case "claim":
		methods[http.MethodPost] = h.claimWake
	case "callback", "ack", "release":
		methods[http.MethodPost] = h.endWake
	case "replay":
		methods[http.MethodPost] = h.replay
	case "drop":
		methods[http.MethodPost] = h.drop
	default:
		return noControl()
	}
	do := methods[r.Method]
	if do == nil {
		var allow []string
		for method := range methods {
			allow = append(allow, method)
		}
		slices.Sort(allow)
		return notAllowed(w, []string{strings.Join(allow, ", ")})
	}
	return explainControl(do(w, r, c))
}

func noControl() error {
	return &wire.Error{Status: http.StatusNotFound, Detail: wire.Detail{Code: wire.CodeNoSubscription, Message: "there is no such control path"}}
}

// explainControl gives an error the code that the protocol has for it.
func explainControl(err error) error {
	answer := func(status int, code wire.Code) *wire.Error {
		return &wire.Error{Status: status, Detail: wire.Detail{Code: code, Message: strings.TrimPrefix(err.Error(), "runnel: ")}, Cause: err}
	}
	var known *wire.Error
	var held *runnel.WakeHeldError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &known):
		if known.Status == http.StatusBadRequest && known.Detail.Code != wire.CodeWebhookURL {
			known.Detail.Code = wire.CodeBadSubscription
		}
		return err
	case errors.As(err, &held):
		f := answer(http.StatusConflict, wire.CodeAlreadyClaimed)
		f.Detail.CurrentHolder, f.Detail.Generation = held.Holder, held.Generation
		return f
	case errors.Is(err, runnel.ErrFenced):
		return answer(http.StatusConflict, wire.CodeFenced)
	case errors.Is(err, runnel.ErrNoWork):
		return answer(http.StatusConflict, wire.CodeNoPendingWork)
	case errors.Is(err, runnel.ErrAck):
		return answer(http.StatusConflict, wire.CodeAck)
	case errors.Is(err, runnel.ErrExists):
		return answer(http.StatusConflict, wire.CodeSubscriptionExists)
	case errors.Is(err, runnel.ErrSubscriptionLimit):
		return answer(http.StatusConflict, wire.CodeSubscriptionLimit)
	case errors.Is(err, runnel.ErrNotFound):
		return answer(http.StatusNotFound, wire.CodeNoSubscription)
	case errors.Is(err, runnel.ErrInvalid):
		return answer(http.StatusBadRequest, wire.CodeBadSubscription)
	}
	return err
}

// readControl reads a JSON object. No body is an empty one.
func (h *Handler) readControl(w http.ResponseWriter, r *http.Request, into any) error {
	b, err := h.receive(w, r)
	if err != nil {
		return err
	}
	defer h.release(b)
	if len(b.bytes) > maxControlBytes {
		return wire.TooLarge("the body is too large", maxControlBytes)
	}
	if len(b.bytes) == 0 {
		return nil
	}
	if err := json.Unmarshal(b.bytes, into); err != nil {
		return wire.Invalid(wire.CodeBadSubscription, "the body must be a JSON object with the fields of this request")
	}
	return nil
}

func answerJSON(w http.ResponseWriter, status int, v any) error {
	body := encodeJSON(v)
	header := w.Header()
	header[wire.HeaderContentType] = valueJSON
	header[wire.HeaderCacheControl] = valueNoStore
	header[headerContentLength] = []string{strconv.Itoa(len(body))}
	w.WriteHeader(status)
	w.Write(body)
	return nil
}

func answerNothing(w http.ResponseWriter) error {
	w.Header()[wire.HeaderCacheControl] = valueNoStore
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// subscriptionBody is the configuration of a subscription in a request. Source: PROTOCOL.md, section 6.2.
type subscriptionBody struct {
	Type    string   `json:"type"`
	Pattern *string  `json:"pattern"`
	Streams []string `json:"streams"`
	Webhook *struct {
		URL string `json:"url"`
	} `json:"webhook"`
	WakeStream  *string `json:"wake_stream"`
	LeaseTTL    *int64  `json:"lease_ttl_ms"`
	Description *string `json:"description"`
}

func (h *Handler) putSubscription(w http.ResponseWriter, r *http.Request, c control) error {
	store, err := h.cfg.Store(r)
	if err != nil {
		return err
	}
	var body subscriptionBody
	if err := h.readControl(w, r, &body); err != nil {
		return err
	}
	config, err := h.configOf(&body)
	if err != nil {
		return err
	}
	config.Base = h.base(r)
	sub, existed, err := h.cfg.Subscriptions.CreateSubscription(r.Context(), store, c.id, config)
	if err != nil {
		return err
	}
	status := http.StatusCreated
	if existed {
		status = http.StatusOK
	}
	return h.answerSubscription(w, r, status, sub)
}

func (h *Handler) configOf(body *subscriptionBody) (runnel.SubscriptionConfig, error) {
	config := runnel.SubscriptionConfig{Type: runnel.SubscriptionType(body.Type), Streams: body.Streams}
	text := func(into *string, from *string) {
		if from != nil {
			*into = *from
		}
	}
	text(&config.Pattern, body.Pattern)
	text(&config.WakeStream, body.WakeStream)
	text(&config.Description, body.Description)
	if ms := body.LeaseTTL; ms != nil {
		if *ms < runnel.MinWakeLease.Milliseconds() || *ms > runnel.MaxWakeLease.Milliseconds() {
			return config, wire.Invalid(wire.CodeBadSubscription, "lease_ttl_ms must be from 1000 to 600000")
		}
		config.LeaseTTL = time.Duration(*ms) * time.Millisecond
	}
	if config.Type == runnel.Webhook && body.Webhook != nil && body.Webhook.URL != "" {
		checked, err := h.cfg.Subscriptions.CheckWebhook(body.Webhook.URL)
		if err != nil {
			f := wire.Invalid(wire.CodeWebhookURL, strings.TrimPrefix(err.Error(), "runnel: "))
			f.Cause = err
			return config, f
		}
		config.WebhookURL = checked
	}
	return config, nil
}

// base is the URL of the stream root as the one who asks sees it.
func (h *Handler) base(r *http.Request) string {
	return strings.TrimSuffix(h.location(r), r.URL.EscapedPath()) + h.root
}

// subscriptionView is a subscription in an answer. Source: PROTOCOL.md, section 6.3; what follows the
// description goes beyond it.
type subscriptionView struct {
	ID           string       `json:"id"`
	Subscription string       `json:"subscription_id"`
	Type         string       `json:"type"`
	Pattern      *string      `json:"pattern"`
	Streams      []linkView   `json:"streams,omitzero"`
	Webhook      *webhookView `json:"webhook,omitempty"`
	WakeStream   *string      `json:"wake_stream"`
	LeaseTTL     int64        `json:"lease_ttl_ms"`
	Created      string       `json:"created_at"`
	Status       string       `json:"status"`
	Description  *string      `json:"description"`

	Generation  uint64       `json:"generation"`
	Holder      string       `json:"holder,omitempty"`
	NextAttempt string       `json:"next_attempt_at,omitempty"`
	Failure     *failureView `json:"failure,omitempty"`
}

type failureView struct {
	Attempts int    `json:"attempts"`
	Since    string `json:"since,omitempty"`
	Status   int    `json:"status,omitempty"`
	Reason   string `json:"reason,omitempty"`
	Parked   bool   `json:"parked"`
}

type linkView struct {
	Path       string `json:"path"`
	LinkType   string `json:"link_type"`
	Acked      string `json:"acked_offset"`
	Tail       string `json:"tail_offset,omitempty"`
	HasPending *bool  `json:"has_pending,omitempty"`
	Lag        uint64 `json:"lag,omitempty"`
}

type webhookView struct {
	URL     string       `json:"url"`
	Signing *signingView `json:"signing,omitempty"`
}

type signingView struct {
	Algorithm string `json:"alg"`
	KeyID     string `json:"kid"`
	JWKSURL   string `json:"jwks_url"`
}

func viewLink(l runnel.SubscriptionLink) linkView {
	pending := l.Pending()
	v := linkView{Path: l.Path, LinkType: "glob", Acked: l.Acked.Offset(), Tail: l.Tail.Offset(), HasPending: &pending}
	if l.Explicit {
		v.LinkType = "explicit"
	}
	if pending {
		v.Lag = uint64(l.Tail - l.Acked)
	}
	return v
}

// webhookAlgorithm is the name that the protocol has for the signatures of webhooks.
const webhookAlgorithm = "ed25519"

func (h *Handler) viewSubscription(r *http.Request, sub *runnel.Subscription) (subscriptionView, error) {
	optional := func(s string) *string {
		if s == "" {
			return nil
		}
		return &s
	}
	stamp := func(t time.Time) string {
		if t.IsZero() {
			return ""
		}
		return t.UTC().Format("2006-01-02T15:04:05.000Z07:00")
	}
	v := subscriptionView{
		ID: sub.ID, Subscription: sub.ID, Type: string(sub.Type), Pattern: optional(sub.Pattern), WakeStream: optional(sub.WakeStream),
		LeaseTTL: sub.LeaseTTL.Milliseconds(), Created: stamp(sub.Created), Status: "active", Description: optional(sub.Description),
		Generation: sub.Generation, Holder: sub.Holder, NextAttempt: stamp(sub.NextAttempt),
	}
	if sub.Failures > 0 || sub.Parked {
		v.Status = "failed"
		v.Failure = &failureView{Attempts: sub.Failures, Since: stamp(sub.FailingSince), Status: sub.LastStatus, Reason: sub.LastReason, Parked: sub.Parked}
	}
	if sub.Type == runnel.Webhook {
		kid, err := h.cfg.Subscriptions.SigningKey(r.Context(), sub.Store)
		if err != nil {
			return v, err
		}
		keys := h.base(r) + "/" + runnel.ReservedElement + "/" + controlKeys
		if sub.Store != (runnel.Store{}) {
			keys += "?store=" + sub.Store.String()
		}
		v.Webhook = &webhookView{URL: sub.WebhookURL, Signing: &signingView{Algorithm: webhookAlgorithm, KeyID: kid, JWKSURL: keys}}
	}
	return v, nil
}

func (h *Handler) answerSubscription(w http.ResponseWriter, r *http.Request, status int, sub runnel.Subscription) error {
	v, err := h.viewSubscription(r, &sub)
	if err != nil {
		return err
	}
	v.Streams = []linkView{}
	for l, err := range h.cfg.Subscriptions.SubscriptionLinks(r.Context(), sub.Store, sub.ID) {
		if err != nil {
			return err
		}
		v.Streams = append(v.Streams, viewLink(l))
	}
	slices.SortFunc(v.Streams, func(a, b linkView) int { return strings.Compare(a.Path, b.Path) })
	return answerJSON(w, status, v)
}

func (h *Handler) getSubscription(w http.ResponseWriter, r *http.Request, c control) error {
	store, err := h.cfg.Store(r)
	if err != nil {
		return err
	}
	sub, err := h.cfg.Subscriptions.Subscription(r.Context(), store, c.id)
	if err != nil {
		return err
	}
	return h.answerSubscription(w, r, http.StatusOK, sub)
}

// listSubscriptionsPage is how many subscriptions one answer lists.
const listSubscriptionsPage = 1000

// listSubscriptions lists subscriptions without their streams, in the order of their ids, behind the query
// parameter after. It goes beyond the protocol.
func (h *Handler) listSubscriptions(w http.ResponseWriter, r *http.Request, _ control) error {
	store, err := h.cfg.Store(r)
	if err != nil {
		return err
	}
	answer := struct {
		Subscriptions []subscriptionView `json:"subscriptions"`
		Next          string             `json:"next,omitempty"`
	}{Subscriptions: []subscriptionView{}}
	for sub, err := range h.cfg.Subscriptions.Subscriptions(r.Context(), store, r.URL.Query().Get("after")) {
		if err != nil {
			return err
		}
		v, err := h.viewSubscription(r, &sub)
		if err != nil {
			return err
		}
		answer.Subscriptions = append(answer.Subscriptions, v)
		if len(answer.Subscriptions) == listSubscriptionsPage {
			answer.Next = sub.ID
			break
		}
	}
	return answerJSON(w, http.StatusOK, answer)
}

// deleteSubscription deletes a subscription. One that is not there is as good as deleted.
func (h *Handler) deleteSubscription(w http.ResponseWriter, r *http.Request, c control) error {
	store, err := h.cfg.Store(r)
	if err != nil {
		return err
	}
	if err := h.cfg.Subscriptions.DeleteSubscription(r.Context(), store, c.id); err != nil && !errors.Is(err, runnel.ErrNotFound) {
		return err
	}
	return answerNothing(w)
}

func (h *Handler) linkStreams(w http.ResponseWriter, r *http.Request, c control) error {
	store, err := h.cfg.Store(r)
	if err != nil {
		return err
	}
	var body struct {
		Streams []string `json:"streams"`
	}
	if err := h.readControl(w, r, &body); err != nil {
		return err
	}
	if body.Streams == nil {
		return wire.Invalid(wire.CodeBadSubscription, "streams must be an array of paths")
	}
	if err := h.cfg.Subscriptions.LinkStreams(r.Context(), store, c.id, body.Streams); err != nil {
		return err
	}
	return answerNothing(w)
}

func (h *Handler) unlinkStream(w http.ResponseWriter, r *http.Request, c control) error {
	store, err := h.cfg.Store(r)
	if err != nil {
		return err
	}
	if err := h.cfg.Subscriptions.UnlinkStream(r.Context(), store, c.id, c.stream); err != nil {
		return err
	}
	return answerNothing(w)
}

func (h *Handler) replay(w http.ResponseWriter, r *http.Request, c control) error {
	store, err := h.cfg.Store(r)
	if err != nil {
		return err
	}
	if err := h.cfg.Subscriptions.ReplayDelivery(r.Context(), store, c.id); err != nil {
		return err
	}
	return answerNothing(w)
}

// drop ends a wake whose webhook fails as if it had been worked on.
func (h *Handler) drop(w http.ResponseWriter, r *http.Request, c control) error {
	store, err := h.cfg.Store(r)
	if err != nil {
		return err
	}
	if err := h.cfg.Subscriptions.DropDelivery(r.Context(), store, c.id); err != nil {
		return err
	}
	return answerNothing(w)
}

// wakeView is the answer to a claim. Source: PROTOCOL.md, section 7.2.
type wakeView struct {
	WakeID     string     `json:"wake_id"`
	Generation uint64     `json:"generation"`
	Token      string     `json:"token"`
	Streams    []linkView `json:"streams"`
	LeaseTTL   int64      `json:"lease_ttl_ms"`
}

func (h *Handler) claimWake(w http.ResponseWriter, r *http.Request, c control) error {
	store, err := h.cfg.Store(r)
	if err != nil {
		return err
	}
	var body struct {
		Worker string `json:"worker"`
	}
	if err := h.readControl(w, r, &body); err != nil {
		return err
	}
	if body.Worker == "" {
		return wire.Invalid(wire.CodeBadSubscription, "worker must be a name")
	}
	wake, err := h.cfg.Subscriptions.ClaimWake(r.Context(), store, c.id, body.Worker)
	if err != nil {
		return err
	}
	token, err := h.cfg.Subscriptions.ClaimToken(r.Context(), wake.WakeRef)
	if err != nil {
		return err
	}
	v := wakeView{WakeID: wake.WakeID, Generation: wake.Generation, Token: token, Streams: []linkView{}, LeaseTTL: wake.LeaseTTL.Milliseconds()}
	for _, l := range wake.Streams {
		v.Streams = append(v.Streams, viewLink(l))
	}
	return answerJSON(w, http.StatusOK, v)
}

// wakeBody is what a callback, an ack or a release brings. Source: PROTOCOL.md, section 7.
type wakeBody struct {
	WakeID     string `json:"wake_id"`
	Generation uint64 `json:"generation"`
	Acks       []struct {
		Stream string `json:"stream"`
		Path   string `json:"path"` // the name that the listings have for it
		Offset string `json:"offset"`
	} `json:"acks"`
	Done bool `json:"done"`
}

// endWake answers callbacks, acks and releases. Whoever asks shows the token of the wake and nothing else.
func (h *Handler) endWake(w http.ResponseWriter, r *http.Request, c control) error {
	ref, err := h.verifyWake(r, c)
	if err != nil {
		return err
	}
	var body wakeBody
	if err := h.readControl(w, r, &body); err != nil {
		return err
	}
	if body.WakeID != ref.WakeID || body.Generation != ref.Generation {
		return runnel.ErrFenced
	}
	if c.action == "release" {
		if err := h.cfg.Subscriptions.ReleaseWake(r.Context(), ref); err != nil {
			return err
		}
		return answerNothing(w)
	}
	acks := make([]runnel.WakeAck, 0, len(body.Acks))
	for _, ack := range body.Acks {
		path := strings.Trim(ack.Stream, "/")
		if path == "" {
			path = strings.Trim(ack.Path, "/")
		}
		at, err := runnel.ParseOffset(ack.Offset)
		if err != nil {
			return &runnel.AckError{Path: path, Rule: "has no offset that this server hands out"}
		}
		acks = append(acks, runnel.WakeAck{Path: path, Acked: at})
	}
	more, err := h.cfg.Subscriptions.AckWake(r.Context(), ref, acks, body.Done)
	if err != nil {
		return err
	}
	return answerJSON(w, http.StatusOK, struct {
		OK       bool `json:"ok"`
		NextWake bool `json:"next_wake"`
	}{true, more})
}

// verifyWake returns the wake whose token the request shows, if it is one of this subscription.
func (h *Handler) verifyWake(r *http.Request, c control) (runnel.WakeRef, error) {
	refused := func(code wire.Code, message string) error {
		return &wire.Error{
			Status:  http.StatusUnauthorized,
			Headers: []string{"Www-Authenticate", "Bearer"},
			Detail:  wire.Detail{Code: code, Message: message},
		}
	}
	values := r.Header["Authorization"]
	if len(values) != 1 || len(values[0]) < 8 || !strings.EqualFold(values[0][:7], "Bearer ") {
		return runnel.WakeRef{}, refused(wire.CodeTokenInvalid, "the token of the wake must be in the header Authorization")
	}
	ref, err := h.cfg.Subscriptions.VerifyToken(r.Context(), c.action == "callback", strings.TrimSpace(values[0][7:]))
	switch {
	case errors.Is(err, wire.ErrTokenExpired):
		return ref, refused(wire.CodeTokenExpired, "the token of the wake has expired")
	case errors.Is(err, runnel.ErrUnauthorized) || err == nil && ref.Subscription != c.id:
		return ref, refused(wire.CodeTokenInvalid, "the token is of no wake of this subscription")
	}
	return ref, err
}

func (h *Handler) keySet(w http.ResponseWriter, r *http.Request, _ control) error {
	store, err := runnel.ParseStore(r.URL.Query().Get("store"))
	if err != nil {
		return err
	}
	keys, err := h.cfg.Subscriptions.KeySet(r.Context(), store)
	if err != nil {
		return err
	}
	header := w.Header()
	header[wire.HeaderContentType] = []string{"application/jwk-set+json"}
	header[wire.HeaderCacheControl] = []string{"public, max-age=300"}
	header[headerContentLength] = []string{strconv.Itoa(len(keys))}
	w.WriteHeader(http.StatusOK)
	if r.Method != http.MethodHead {
		w.Write(keys)
	}
	return nil
}

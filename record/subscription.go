package record

import (
	"time"

	"github.com/runnelhq/runnel"
)

// Subscription is what is kept of a subscription, under its id, in the form of a [Descriptor]. Times are
// in microseconds since 1970, 0 for none.
type Subscription struct {
	Instance uint64
	Config   runnel.SubscriptionConfig
	Created  int64
	// Linking says that the streams that were there before have yet to be linked, all of them.
	Linking bool

	Generation uint64
	// WakeID is empty when no wake is in flight.
	WakeID   string
	Holder   string
	Deadline int64

	// Attempt is until when an attempt to deliver may be under way, and Engine who makes it.
	Attempt  int64
	Engine   string
	Accepted bool // delivered, and waiting for a callback until Deadline
	Parked   bool

	Failures     uint64
	FailingSince int64
	NextAttempt  int64
	LastStatus   uint64
	LastReason   string
}

// Append appends the encoded row to dst.
func (s *Subscription) Append(dst []byte) []byte {
	dst = append(dst, rowVersion)
	dst = appendUint(dst, 1, s.Instance)
	dst = appendText(dst, 2, string(s.Config.Type))
	dst = appendText(dst, 3, s.Config.Pattern)
	for _, path := range s.Config.Streams {
		dst = appendText(dst, 4, path)
	}
	dst = appendText(dst, 5, s.Config.WebhookURL)
	dst = appendText(dst, 6, s.Config.WakeStream)
	dst = appendUint(dst, 7, uint64(s.Config.LeaseTTL))
	dst = appendText(dst, 8, s.Config.Description)
	dst = appendUint(dst, 9, uint64(s.Created))
	dst = appendFlag(dst, 10, s.Linking)
	dst = appendUint(dst, 11, s.Generation)
	dst = appendText(dst, 12, s.WakeID)
	dst = appendText(dst, 13, s.Holder)
	dst = appendUint(dst, 14, uint64(s.Deadline))
	dst = appendUint(dst, 15, uint64(s.Attempt))
	dst = appendText(dst, 16, s.Engine)
	dst = appendFlag(dst, 17, s.Accepted)
	dst = appendFlag(dst, 18, s.Parked)
	dst = appendUint(dst, 19, s.Failures)
	dst = appendUint(dst, 20, uint64(s.FailingSince))
	dst = appendUint(dst, 21, uint64(s.NextAttempt))
	dst = appendUint(dst, 22, s.LastStatus)
	dst = appendText(dst, 23, s.LastReason)
	return appendText(dst, 24, s.Config.Base)
}

// DecodeSubscription reads the row. The error matches ErrCorrupt.
func DecodeSubscription(value []byte) (Subscription, error) {
	var s Subscription
	err := decodeRow("subscription", value, func(f field) {
		switch f.number {
		case 1:
			s.Instance = f.uint
		case 2:
			s.Config.Type = runnel.SubscriptionType(f.bytes)
		case 3:
			s.Config.Pattern = string(f.bytes)
		case 4:
			if len(f.bytes) > 0 { // no path is empty
				s.Config.Streams = append(s.Config.Streams, string(f.bytes))
			}
		case 5:
			s.Config.WebhookURL = string(f.bytes)
		case 6:
			s.Config.WakeStream = string(f.bytes)
		case 7:
			s.Config.LeaseTTL = time.Duration(f.uint)
		case 8:
			s.Config.Description = string(f.bytes)
		case 9:
			s.Created = int64(f.uint)
		case 10:
			s.Linking = f.uint != 0
		case 11:
			s.Generation = f.uint
		case 12:
			s.WakeID = string(f.bytes)
		case 13:
			s.Holder = string(f.bytes)
		case 14:
			s.Deadline = int64(f.uint)
		case 15:
			s.Attempt = int64(f.uint)
		case 16:
			s.Engine = string(f.bytes)
		case 17:
			s.Accepted = f.uint != 0
		case 18:
			s.Parked = f.uint != 0
		case 19:
			s.Failures = f.uint
		case 20:
			s.FailingSince = int64(f.uint)
		case 21:
			s.NextAttempt = int64(f.uint)
		case 22:
			s.LastStatus = f.uint
		case 23:
			s.LastReason = string(f.bytes)
		case 24:
			s.Config.Base = string(f.bytes)
		}
	})
	return s, err
}

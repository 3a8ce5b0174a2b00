package durablestreams

import "github.com/runnelhq/runnel"

// A reader that begins may be given the state that a stream has come to, in the place of the entries that made
// it. It is one piece, for there is no place inside of it to go on from: one response, or one event. What
// follows it is read from the place that it ends with.

// stateFrames yields the state of a view as one data event in pieces, and the control event that says which
// place it stands for. It has not been yielded if there is an error.
func (c codec) stateFrames(v runnel.View, number cursor, weigh weigher, yield func(*frame) error) error {
	e := encoder{codec: c, base: v.From, number: number}
	for message, err := range v.State {
		if err != nil {
			return err
		}
		if err := e.addPart(message, weigh, yield); err != nil {
			return err
		}
	}
	e.control(v.From, false, false)
	return yield(e.frame(v.From))
}

// addPart takes a message, and yields what there is of the event when that is enough.
func (e *encoder) addPart(p []byte, weigh weigher, yield func(*frame) error) error {
	if len(p) > heavyBytes {
		release, err := weigh(e.codec.sizeOf(p))
		if err != nil {
			return err
		}
		defer release()
	}
	e.add(p)
	if len(e.b) < frameBytes {
		return nil
	}
	return yield(e.part())
}

// part returns what was gathered of an event that goes on.
func (e *encoder) part() *frame {
	f := &frame{base: e.base, end: e.base, number: e.number}
	f.setText(e.b)
	e.b = make([]byte, chunkHead, chunkHead+frameBytes)
	return f
}

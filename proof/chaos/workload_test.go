package chaos

import "context"

// workload is one kind of client. To add one, write it and name it in workloads.
type workload interface {
	// name says what it does.
	name() string
	// run works until ctx ends, which is the end of a round. It is called once a round, and goes on with
	// what the round before left. Requests that it has sent by then it still waits for.
	run(ctx context.Context, w *world)
	// check looks at the streams while nobody writes and the server has just been restarted; all says that
	// it is for the last time.
	check(w *world, all bool)
}

func workloads() []workload {
	return []workload{
		&producers{id: "text", contentType: text, count: 4, largest: 1},
		&producers{id: "octets", contentType: octets, count: 2, largest: 1},
		&producers{id: "json", contentType: messages, count: 3, largest: 20},
		&writers{},
		&contenders{},
		&sequenced{},
		&closers{},
		&recreators{},
		&forks{},
		&retained{},
		&expiring{},
		&archive{},
		&boards{},
		&pullers{fleet: fleet{folder: "jobs"}},
		&hooks{fleet: fleet{folder: "hooked"}},
	}
}

// roundsOfAStream is for how many rounds a stream is written to before the next one takes its place, so that
// what is checked after a round stays small.
const roundsOfAStream = 3

// few is how many of the streams that are done with are checked again after a round.
const few = 5

// others is the same, unless it is for the last time.
func others(all bool) int {
	if all {
		return 1 << 30
	}
	return few
}

package durablestreams

import (
	"net/http"
	"sync/atomic"
	"time"
)

// date is the value of the Date header in one second.
type date struct {
	second int64
	value  []string
}

var lastDate atomic.Pointer[date]

// dateNow returns the value of the Date header. It is written once a second and shared by all responses,
// for which net/http would write one each.
func dateNow() []string {
	now := time.Now()
	if d := lastDate.Load(); d != nil && d.second == now.Unix() {
		return d.value
	}
	d := &date{second: now.Unix(), value: []string{now.UTC().Format(http.TimeFormat)}}
	lastDate.Store(d)
	return d.value
}

package supervision

import "sync"

// Outlet is how goroutines and timers reach an actor that may be spawned again
// under its name. It is closed while there is none: a name that is just being
// spawned must get no message from outside, since protoactor registers it before
// its mailbox is whole. The zero value is closed. Safe for concurrent use.
type Outlet struct {
	mu sync.Mutex // guards to
	to func(any)
}

// Set opens the outlet to a new incarnation, or with nil closes it; what is being
// sent meanwhile is through when it returns.
func (o *Outlet) Set(to func(any)) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.to = to
}

// Send passes a message on, or drops it when there is nobody.
func (o *Outlet) Send(m any) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.to != nil {
		o.to(m)
	}
}

package gpu

import "time"

// turns lets calls be made one after the other, each in its own goroutine, so that
// one which never comes back costs one goroutine and its callers no more than
// their patience.
type turns struct {
	token    chan struct{} // holds one token while a call is made
	patience time.Duration
	shut     bool // for good; guarded by token
}

func newTurns(patience time.Duration) *turns {
	return &turns{token: make(chan struct{}, 1), patience: patience}
}

// inTurn makes a call when those before it are through. The error is ErrSilent when
// waiting and call together take longer than the patience; the call goes on, and
// its result is dropped. After shut it is ErrClosed.
func inTurn[T any](t *turns, call func() (T, error)) (T, error) {
	type result struct {
		v   T
		err error
	}
	var nothing T
	timer := time.NewTimer(t.patience)
	defer timer.Stop()
	select {
	case t.token <- struct{}{}:
	case <-timer.C:
		return nothing, ErrSilent
	}
	done := make(chan result, 1)
	go func() {
		defer func() { <-t.token }()
		if t.shut {
			done <- result{nothing, ErrClosed}
			return
		}
		v, err := call()
		done <- result{v, err}
	}()
	select {
	case r := <-done:
		return r.v, r.err
	case <-timer.C:
		return nothing, ErrSilent
	}
}

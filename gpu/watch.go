//go:build cgo && linux

package gpu

import (
	"context"
	"errors"
	"time"
)

// errNoEvents: asking again does not help.
var errNoEvents = errors.New("this NVIDIA driver tells of no faults")

// Events implements Driver.
func (l *library) Events(ctx context.Context, tell func(Event)) error {
	l.listen(true)
	defer l.listen(false)
	w := watch{l: l, tell: tell}
	for ctx.Err() == nil {
		ok, err := w.once()
		switch {
		case errors.Is(err, ErrClosed):
			return nil
		case errors.Is(err, errNoEvents):
			return err
		case err != nil:
			l.once("GPU events cannot be watched for now", "error", err.Error())
		}
		if !ok {
			pause(ctx, l.retry)
		}
	}
	return nil
}

// listen says whether somebody wants events. A driver that hangs is not waited for
// without end; its set then stays.
func (l *library) listen(on bool) {
	for end := time.Now().Add(l.patience); !l.waiting.TryLock(); time.Sleep(l.tick / 10) {
		if time.Now().After(end) {
			return
		}
	}
	defer l.waiting.Unlock()
	if l.watched = on; !on {
		l.freeSet()
	}
	l.pending = nil
}

// watch is one call of Events.
type watch struct {
	l    *library
	tell func(Event)
	lost map[string]bool // GPUs told as lost, until they answer again; never changed once made
	next time.Time       // when the lost ones are looked for again
}

// once waits for one event; ok false asks for a pause before the next.
func (w *watch) once() (ok bool, err error) {
	l := w.l
	if len(w.lost) > 0 && time.Now().After(w.next) {
		w.next = time.Now().Add(l.retry)
		if err := w.renew(w.lost); err != nil {
			return false, err
		}
	}
	l.waiting.Lock()
	watched, pending, lost := l.set != nil, l.pending, l.lost
	l.pending = nil
	l.waiting.Unlock()
	for _, e := range pending {
		w.tell(e)
	}
	w.tellLost(lost)
	if !watched {
		err := w.renew(nil)
		return err == nil, err
	}
	e, failed := l.await()
	if e != nil {
		w.tell(*e)
	}
	if failed == nil {
		return true, nil
	}
	// A new set finds out whose fault it is, and is without the one that is lost.
	if err := w.renew(nil); err != nil {
		return false, err
	}
	l.waiting.Lock()
	defer l.waiting.Unlock()
	if len(l.lost) > len(w.lost) {
		return true, nil
	}
	return false, failed
}

// renew makes a new event set; where lost is given, only when one of those answers again.
func (w *watch) renew(lost map[string]bool) error {
	_, err := inTurn(w.l.turn, func() (none, error) {
		if len(lost) > 0 && !w.l.anyBack(lost) {
			return none{}, nil
		}
		w.l.waiting.Lock()
		defer w.l.waiting.Unlock()
		return none{}, w.l.newSet()
	})
	return err
}

// tellLost tells of the GPUs that were not lost before.
func (w *watch) tellLost(lost map[string]bool) {
	for id := range lost {
		if !w.lost[id] {
			w.tell(Event{UUID: id, Lost: true, At: time.Now()})
			w.next = time.Now().Add(w.l.retry)
		}
	}
	w.lost = lost
}

func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}

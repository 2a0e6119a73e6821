package journal

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/rbee-hive/hive/messages"
)

func TestReaderResumesAndIsCut(t *testing.T) {
	now := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	j := New(4, func() time.Time { return now })
	hooked := 0
	j.Observe(func(messages.Event) { hooked++ })
	slow := j.Subscribe(0)
	for range 10 {
		j.Append(messages.Event{Type: messages.HiveStarted})
	}
	if _, err := slow.Next(context.Background()); !errors.Is(err, ErrTooSlow) {
		t.Errorf("a reader behind the ring: %v", err)
	}
	r := j.Subscribe(8)
	for want := uint64(9); want <= 10; want++ {
		if e, err := r.Next(context.Background()); err != nil || e.Seq != want || !e.At.Equal(now) {
			t.Errorf("want %d, got %+v, %v", want, e, err)
		}
	}
	got := make(chan messages.Event)
	go func() { e, _ := r.Next(context.Background()); got <- e }()
	j.Append(messages.Event{Type: messages.HiveStopped})
	if e := <-got; e.Seq != 11 || hooked != 11 {
		t.Errorf("waiting reader got %d, %d hooked", e.Seq, hooked)
	}
	if es, cut := j.Since(2); !cut || len(es) != 4 || es[0].Seq != 8 {
		t.Errorf("since 2: %v %v", es, cut)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := r.Next(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}

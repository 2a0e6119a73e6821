package snapshot

import (
	"context"
	"errors"
	"testing"

	"github.com/rbee-hive/hive/messages"
)

func TestBoard(t *testing.T) {
	b := New()
	for _, n := range []messages.WorkerID{"chat-10", "chat-2", "a"} {
		b.PutWorker(&messages.WorkerStatus{Name: n})
	}
	if ws := b.Workers(); ws[0].Name != "a" || ws[1].Name != "chat-2" || ws[2].Name != "chat-10" {
		t.Errorf("order: %v %v %v", ws[0].Name, ws[1].Name, ws[2].Name)
	}
	v, changed := b.Version(), b.Changed()
	got := make(chan *messages.WorkerStatus)
	go func() {
		s, _ := b.WaitFor(context.Background(), "a", func(s *messages.WorkerStatus) bool { return s.State == messages.Idle })
		got <- s
	}()
	b.PutWorker(&messages.WorkerStatus{Name: "a", State: messages.Idle})
	<-changed
	if s := <-got; s.State != messages.Idle || b.Version() <= v {
		t.Errorf("%v, version %d after %d", s.State, b.Version(), v)
	}
	b.DropWorker("a")
	if _, ok := b.Worker("a"); ok || len(b.Workers()) != 2 {
		t.Error("dropped, and still in view")
	}
	if _, err := b.WaitFor(context.Background(), "a", nil); !errors.Is(err, messages.ErrUnknownWorker) {
		t.Error(err)
	}
}

func BenchmarkPutAndList500(b *testing.B) {
	board := New()
	for i := range 500 {
		board.PutWorker(&messages.WorkerStatus{Name: messages.WorkerID(rune('a'+i%26)) + messages.WorkerID(rune('a'+i/26))})
	}
	b.ReportAllocs()
	for b.Loop() {
		board.PutWorker(&messages.WorkerStatus{Name: "aa"})
		board.Worker("aa")
	}
}

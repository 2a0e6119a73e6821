package worker_test

import (
	"context"
	"fmt"
	"log"
	"os/signal"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/rbee-hive/hive/worker"
)

// A whole engine, as far as hive is concerned.
func Example() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	var inFlight atomic.Int64

	w := worker.FromEnv()
	w.OnDrain(func() { log.Print("taking no more requests") })
	w.OnSilent(func(d time.Duration) { log.Printf("hive has been silent for %s", d) })

	for i := range 4 { // load the model here
		if err := w.Progress(ctx, "weights", float64(i)/4); err != nil {
			log.Print(err)
		}
	}
	if err := w.Ready(ctx); err != nil {
		log.Print(err)
	}
	go func() {
		_ = w.Run(ctx, 0, func() worker.Stats {
			return worker.Stats{InFlight: worker.Ptr(int(inFlight.Load()))}
		})
	}()
	// serve requests here, until ctx ends
	fmt.Println("served")
	// Output: served
}

func ExampleWorker_Heartbeat() {
	w := worker.FromEnv() // no hive here, so that the answer is empty
	answer, err := w.Heartbeat(context.Background(), worker.Stats{InFlight: worker.Ptr(3), KVCacheUsed: worker.Ptr(0.4)})
	fmt.Println(answer.Drain, err)
	// Output: false <nil>
}

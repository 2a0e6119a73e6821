package messages

import (
	"sync"
	"time"
)

// How hive knows that a worker lives.
const (
	BeatNone      = "none"      // only its process is watched
	BeatSynthetic = "synthetic" // hive probes it, or reads its engine's figures
	BeatNative    = "native"    // it beats itself
)

// Pulse is the part of a worker's status that moves with every heartbeat.
// Heartbeats come at a rate that no mailbox should carry, so they are written
// here by whoever hears them and read by whoever wants to know; the worker's
// actor is told only of what may change its state. Safe for concurrent use.
type Pulse struct {
	mu sync.Mutex // guards all below
	r  Reading
	u  Resources
	in int // in flight as the actor was last told, -1 for never

	told, seen Stats // what the worker said itself, and what hive asked for; r.Stats is both
	on         bool  // an attempt is listened to
}

// Reading is a pulse at one moment.
type Reading struct {
	Attempt Attempt
	Kind    string    // BeatNone, BeatSynthetic or BeatNative
	At      time.Time // the last heartbeat, or with BeatSynthetic the last answer
	Beats   uint64    // native heartbeats of this attempt
	Stats   Stats
}

// Begin forgets the earlier attempt and listens to the next one.
func (p *Pulse) Begin(a Attempt) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.r, p.in, p.on = Reading{Attempt: a, Kind: BeatNone}, -1, true
	p.told, p.seen = Stats{}, Stats{}
	p.u = Resources{}
}

// End stops listening; the last reading stays readable.
func (p *Pulse) End() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.on = false
	p.r.Stats = Stats{}
}

// Uses notes what an attempt uses now; Unenforced is not its business.
func (p *Pulse) Uses(a Attempt, u Resources) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.on && a == p.r.Attempt {
		p.u = u
	}
}

// Used returns what an attempt was last seen to use.
func (p *Pulse) Used(a Attempt) Resources {
	p.mu.Lock()
	defer p.mu.Unlock()
	if a != p.r.Attempt {
		return Resources{}
	}
	return p.u
}

// Read returns the pulse now.
func (p *Pulse) Read() Reading {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.r
}

// Beat takes a worker's own heartbeat. tell is true for the first one of an
// attempt and for each that changes how much is in flight: the actor must hear
// of it. One for another attempt than the current changes nothing.
func (p *Pulse) Beat(a Attempt, at time.Time, s *Stats) (tell bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.on || a != p.r.Attempt {
		return false
	}
	tell = p.r.Beats == 0
	p.r.Beats++
	p.r.Kind, p.r.At = BeatNative, at
	return p.merge(&p.told, s) || tell
}

// Note takes what a worker says of its work beside its heartbeats: it tells
// nothing of whether the next one is due.
func (p *Pulse) Note(a Attempt, s *Stats) (tell bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.on || a != p.r.Attempt {
		return false
	}
	return p.merge(&p.told, s)
}

// Seen takes an answer that hive asked for: a probe, or an engine's figures. A
// worker that beats itself knows better, and only what it does not tell is taken.
func (p *Pulse) Seen(a Attempt, at time.Time, s *Stats) (tell bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.on || a != p.r.Attempt {
		return false
	}
	if p.r.Kind != BeatNative {
		p.r.Kind, p.r.At = BeatSynthetic, at
	}
	return p.merge(&p.seen, s)
}

// Told notes what the actor has taken as in flight.
func (p *Pulse) Told(inFlight int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.in = inFlight
}

// merge is called with the lock held; figures that s lacks stay as they were.
func (p *Pulse) merge(to, s *Stats) (tell bool) {
	if s == nil {
		return false
	}
	keep(&to.InFlight, s.InFlight)
	keep(&to.QueueDepth, s.QueueDepth)
	keep(&to.TokensTotal, s.TokensTotal)
	keep(&to.TokensPerSecond, s.TokensPerSecond)
	keep(&to.LatencyP50, s.LatencyP50)
	keep(&to.LatencyP99, s.LatencyP99)
	keep(&to.KVCacheUsed, s.KVCacheUsed)
	keep(&to.MemoryBytes, s.MemoryBytes)
	keep(&to.GPUUtilization, s.GPUUtilization)
	keep(&to.Requests, s.Requests)
	keep(&to.RequestSeconds, s.RequestSeconds)
	p.r.Stats = p.told
	p.seen.Fill(&p.r.Stats)
	if n := p.r.Stats.InFlight; s.InFlight != nil && *n != p.in {
		tell, p.in = true, *n
	}
	return tell
}

func keep[T any](to **T, from *T) {
	if from != nil {
		v := *from
		*to = &v
	}
}

// Now is the status with its pulse as of now. The receiver is not changed.
func (w *WorkerStatus) Now(now time.Time) *WorkerStatus {
	if w == nil || w.Live == nil || w.PID == 0 {
		return w
	}
	r := w.Live.Read()
	if r.Attempt != w.Attempt {
		return w
	}
	c := *w
	c.Heartbeat = Heartbeat{Kind: r.Kind, At: r.At}
	if !r.At.IsZero() {
		a := Secs(max(now.Sub(r.At), 0))
		c.Heartbeat.AgeSeconds = &a
	}
	if r.Stats != (Stats{}) {
		c.Stats = &r.Stats
	}
	lacks := c.Resources.Unenforced
	c.Resources = w.Live.Used(w.Attempt)
	c.Resources.Unenforced = lacks
	return &c
}

// Fill writes the figures of s into those that to lacks.
func (s Stats) Fill(to *Stats) {
	fill(&to.InFlight, s.InFlight)
	fill(&to.QueueDepth, s.QueueDepth)
	fill(&to.TokensTotal, s.TokensTotal)
	fill(&to.TokensPerSecond, s.TokensPerSecond)
	fill(&to.LatencyP50, s.LatencyP50)
	fill(&to.LatencyP99, s.LatencyP99)
	fill(&to.KVCacheUsed, s.KVCacheUsed)
	fill(&to.MemoryBytes, s.MemoryBytes)
	fill(&to.GPUUtilization, s.GPUUtilization)
	fill(&to.Requests, s.Requests)
	fill(&to.RequestSeconds, s.RequestSeconds)
}

func fill[T any](to **T, from *T) {
	if *to == nil {
		*to = from
	}
}

// Package pool is the actor over the workers of one device, or of the cpu pool.
// It is their supervisor strategy, keeps what survives their restarts, and
// admits their attempts: dependencies, one load at a time per device, ports.
package pool

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/actors/worker"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/supervision"
)

// Host is the world as a pool touches it, over what its workers need.
type Host interface {
	worker.Host
	// LeasePort finds a port for a worker; 0 means that it gets none and needs none.
	LeasePort(messages.WorkerSpec) (int, error)
	ReleasePort(messages.WorkerID)
	// Reserve sets memory and disk aside for an attempt; the error says what it
	// waits for. since is when it began to wait.
	Reserve(s messages.WorkerSpec, since time.Time) error
	Unreserve(messages.WorkerID)
	// WaitsFor says in words what a dependency lacks, or "" when all are ready.
	WaitsFor(deps []string) string
	PublishPool(*messages.PoolStatus)
	Forget(messages.WorkerID) // drops the worker from view, with its logs and series
	Spread() float64          // a random number in [0, 1) for the jitter
}

// Record is what survives a restart of the pool's actor. The root owns it.
type Record struct {
	ID       messages.PoolID
	Device   *messages.Device
	MaxLoads int // how many workers may load at once; 0: any number
	Policy   supervision.PoolPolicy
	Account  supervision.PoolAccount
	Cordoned bool
	Reason   string
	Lives    []*worker.Life // in the order they were declared

	outlet supervision.Outlet // for its timer
	afresh bool               // the pool is being restarted for its workers' sake
	ending *EndAll            // the shutdown under way; nil when there is none
}

// Messages between a pool and the root.
type (
	// Add declares a worker.
	Add struct {
		Life  *worker.Life
		Reply chan<- messages.Reply
	}
	// Remove ends a worker and forgets it.
	Remove struct {
		Worker messages.WorkerID
		Reply  chan<- messages.Reply
	}
	// Removed tells the root that a worker is forgotten.
	Removed struct{ Worker messages.WorkerID }
	// Change gives a worker a new spec.
	Change struct {
		Worker messages.WorkerID
		worker.NewSpec
	}
	// Reconsider asks the pool to look at its waiting workers again.
	Reconsider struct{}
	// Cordon closes or opens the pool for new starts.
	Cordon struct {
		On     bool
		Reason string
	}
	// Moved tells the root of a worker's new state.
	Moved struct {
		Worker messages.WorkerID
		State  messages.State
	}
	// EndAll ends every worker, all at once.
	EndAll struct{ Now bool }
	// Degrade shows the pool as degraded.
	Degrade struct{ Reason string }
)

type slot struct {
	life     *worker.Life // the worker's own; the pool looks into it only while the actor is down
	spec     messages.WorkerSpec
	pid      *actor.PID
	state    messages.State
	ticket   uint64
	since    time.Time
	loading  bool
	removing bool
	givenUp  bool // its actor panicked too often and is not restarted
}

// Pool is the actor.
type Pool struct {
	rec   *Record
	host  Host
	slots map[messages.WorkerID]*slot
	byPID map[string]*slot
	order []messages.WorkerID
	queue map[*slot]bool // those that wait for resources
	down  bool           // this incarnation is over, its children are told to stop
	retry func()         // stops the timer that looks again for ports
}

// Props makes the actor's props for a record.
func Props(rec *Record, host Host) *actor.Props {
	return actor.PropsFromProducer(func() actor.Actor {
		return &Pool{rec: rec, host: host, slots: map[messages.WorkerID]*slot{}, byPID: map[string]*slot{}, queue: map[*slot]bool{}}
	})
}

type lookAgain struct{}

// IgnoreDeadLetterLogging implements protoactor's marker.
func (lookAgain) IgnoreDeadLetterLogging() {}

// Receive handles one message.
func (p *Pool) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		self, top := c.Self(), c.ActorSystem().Root
		p.rec.outlet.Set(func(m any) { top.Send(self, m) })
		for _, life := range p.rec.Lives {
			if life.Abandoned {
				p.slots[life.Spec.Name] = &slot{life: life, spec: life.Spec, state: messages.Failed, givenUp: true}
				p.order = append(p.order, life.Spec.Name)
				continue
			}
			life.Interrupt("its pool was restarted")
			if p.rec.afresh {
				life.Afresh()
			}
			p.spawn(c, life)
		}
		p.rec.afresh = false
		p.publish()
		if p.rec.ending != nil {
			p.endAll(c)
		}
	case *actor.Restarting, *actor.Stopping:
		p.down = true
		if _, forGood := m.(*actor.Stopping); forGood {
			p.rec.outlet.Set(nil)
		}
		p.stopRetry()
	case *actor.Terminated:
		p.terminated(c, m)
	case Add:
		p.rec.Lives = append(p.rec.Lives, m.Life)
		if p.down { // the next incarnation spawns it; a child of a stopping parent is never told to stop
			answer(m.Reply, nil)
			return
		}
		p.spawn(c, m.Life)
		p.publish()
		answer(m.Reply, nil)
	case Remove:
		p.remove(c, m)
	case Change:
		if s := p.slots[m.Worker]; s != nil && s.givenUp {
			p.forward(c, m.Worker, m, m.Reply)
		} else if s != nil {
			s.spec = m.Spec
			c.Send(s.pid, m.NewSpec)
		}
	case messages.DoWorker:
		p.forward(c, m.Worker, m, m.Reply)
	case messages.Callback:
		p.forward(c, m.Worker, m, m.Reply)
	case worker.Wanted:
		if s := p.slots[m.Worker]; s != nil {
			p.queue[s], s.ticket, s.since = true, m.Ticket, p.host.Now()
			p.admit(c)
		}
	case worker.Released:
		if s := p.slots[m.Worker]; s != nil {
			s.loading = false
			delete(p.queue, s)
			p.host.ReleasePort(m.Worker)
			p.host.Unreserve(m.Worker)
			p.admit(c)
		}
	case worker.Loaded:
		if s := p.slots[m.Worker]; s != nil && s.loading {
			s.loading = false
			p.admit(c)
		}
	case worker.Changed:
		p.changed(c, m)
	case Reconsider:
		p.admit(c)
	case lookAgain:
		p.retry = nil
		p.admit(c)
	case Cordon:
		p.rec.Cordoned, p.rec.Reason = m.On, m.Reason
		if !m.On {
			p.rec.Account = supervision.PoolAccount{}
		}
		p.publish()
		p.admit(c)
	case Degrade:
		p.rec.Account.Degraded, p.rec.Reason = true, m.Reason
		p.publish()
	case EndAll:
		p.rec.ending = &m
		p.endAll(c)
	}
}

func (p *Pool) endAll(c actor.Context) {
	for id, s := range p.slots {
		if s.givenUp {
			c.Send(c.Parent(), Moved{Worker: id, State: messages.Stopped})
			continue
		}
		c.Send(s.pid, worker.End{Cause: messages.CauseShutdown, Now: p.rec.ending.Now})
	}
}

func answer(to chan<- messages.Reply, err error) {
	if to != nil {
		to <- messages.Reply{Err: err}
	}
}

func (p *Pool) forward(c actor.Context, id messages.WorkerID, m any, reply chan<- messages.Reply) {
	s := p.slots[id]
	if s == nil || s.removing {
		answer(reply, fmt.Errorf("worker %s: %w", id, messages.ErrUnknownWorker))
		return
	}
	if s.givenUp {
		answer(reply, fmt.Errorf("worker %s was given up after too many failures of hive's own actor; remove it and create it again: %w", id, messages.ErrIllegal))
		return
	}
	if d, ok := m.(messages.DoWorker); ok && p.rec.ending != nil && (d.Verb == messages.VerbStart || d.Verb == messages.VerbRestart || d.Verb == messages.VerbReset) {
		answer(reply, messages.ErrShuttingDown)
		return
	}
	c.Send(s.pid, m)
}

func (p *Pool) spawn(c actor.Context, life *worker.Life) {
	spec, state := life.Spec, life.Machine.State // read before the actor may change them
	name := spec.Name
	pid, err := c.SpawnNamed(worker.Props(life, p.host), "worker-"+string(name))
	if err != nil {
		// The name is ours alone and free again after Terminated, so this is a bug.
		panic(fmt.Errorf("spawn worker actor %s: %w", name, err))
	}
	s := &slot{life: life, spec: spec, pid: pid, state: state}
	if !slices.Contains(p.order, name) {
		p.order = append(p.order, name)
	}
	p.slots[name], p.byPID[pid.Id] = s, s
}

// remove ends a worker; it is forgotten once it is stopped.
func (p *Pool) remove(c actor.Context, m Remove) {
	s := p.slots[m.Worker]
	if s == nil {
		answer(m.Reply, fmt.Errorf("worker %s: %w", m.Worker, messages.ErrUnknownWorker))
		return
	}
	s.removing = true
	answer(m.Reply, nil)
	if s.givenUp {
		p.forget(c, s)
		return
	}
	c.Send(s.pid, worker.End{Cause: messages.CauseStoppedByUser})
}

func (p *Pool) changed(c actor.Context, m worker.Changed) {
	s := p.slots[m.Worker]
	if s == nil {
		return
	}
	s.state = m.State
	if s.removing && m.State == messages.Stopped {
		c.Stop(s.pid)
	}
	c.Send(c.Parent(), Moved{Worker: m.Worker, State: m.State})
}

func (p *Pool) terminated(c actor.Context, m *actor.Terminated) {
	s := p.byPID[m.Who.Id]
	if s == nil {
		return
	}
	delete(p.byPID, m.Who.Id)
	switch {
	case s.removing:
		p.forget(c, s)
	case s.givenUp:
		s.loading = false
		delete(p.queue, s)
		p.host.ReleasePort(s.spec.Name)
		p.host.Unreserve(s.spec.Name)
		p.host.Publish(s.life.GivenUp(p.host))
		c.Send(c.Parent(), Moved{Worker: s.spec.Name, State: messages.Failed})
		if p.rec.ending != nil {
			p.endAll(c)
		}
		p.admit(c)
	}
}

// forget drops a worker whose actor has ended.
func (p *Pool) forget(c actor.Context, s *slot) {
	name := s.spec.Name
	delete(p.slots, name)
	delete(p.queue, s)
	p.rec.Lives = slices.DeleteFunc(p.rec.Lives, func(l *worker.Life) bool { return l == s.life })
	p.order = slices.DeleteFunc(p.order, func(id messages.WorkerID) bool { return id == name })
	p.host.ReleasePort(name)
	p.host.Unreserve(name)
	p.host.Emit(messages.Event{Type: messages.WorkerRemoved, At: p.host.Now(), Worker: name, Pool: p.rec.ID, Attempt: s.life.Machine.Attempt})
	p.host.Forget(name)
	c.Send(c.Parent(), Removed{Worker: name})
	p.publish()
	p.admit(c)
}

// lookEvery is how often a worker that waits for a port, memory or disk, which
// another program may free at any time, is looked at again.
const lookEvery = time.Second

// admit grants resources to whoever waits, by priority and then by time. A
// worker that does not fit is told why.
func (p *Pool) admit(c actor.Context) {
	if p.rec.ending != nil || len(p.queue) == 0 {
		return
	}
	waiting := make([]*slot, 0, len(p.queue))
	for s := range p.queue {
		if !s.removing {
			waiting = append(waiting, s)
		}
	}
	loads := 0
	if p.rec.MaxLoads > 0 {
		for _, s := range p.slots {
			if s.loading {
				loads++
			}
		}
	}
	slices.SortFunc(waiting, func(a, b *slot) int {
		return cmp.Or(cmp.Compare(b.spec.Priority, a.spec.Priority), a.since.Compare(b.since),
			cmp.Compare(a.spec.Name, b.spec.Name))
	})
	again := false // something that the world may give back at any time is missing
	for _, s := range waiting {
		spec := s.spec
		if p.rec.Cordoned {
			p.hold(c, s, "its pool "+string(p.rec.ID)+" is cordoned: "+p.rec.Reason)
			continue
		}
		if why := p.host.WaitsFor(spec.DependsOn); why != "" {
			p.hold(c, s, why)
			continue
		}
		if p.rec.MaxLoads > 0 && loads >= p.rec.MaxLoads {
			p.hold(c, s, "another worker loads on "+string(p.rec.ID)+", one load at a time per device")
			continue
		}
		if err := p.host.Reserve(spec, s.since); err != nil {
			again = true
			p.hold(c, s, err.Error())
			continue
		}
		port, err := p.host.LeasePort(spec)
		if err != nil {
			again = true
			p.host.Unreserve(spec.Name)
			p.hold(c, s, err.Error())
			continue
		}
		s.loading = true
		delete(p.queue, s)
		loads++
		var gpus []string
		if p.rec.Device != nil {
			gpus = []string{p.rec.Device.UUID}
		}
		c.Send(s.pid, worker.Granted{Ticket: s.ticket, Port: port, GPUs: gpus, Pool: p.rec.ID})
	}
	if again && p.retry == nil {
		p.retry = p.host.AfterFunc(lookEvery, func() { p.rec.outlet.Send(lookAgain{}) })
	}
}

func (p *Pool) hold(c actor.Context, s *slot, why string) {
	c.Send(s.pid, worker.Held{Ticket: s.ticket, Reason: why})
}

func (p *Pool) stopRetry() {
	if p.retry != nil {
		p.retry()
		p.retry = nil
	}
}

func (p *Pool) publish() {
	st := &messages.PoolStatus{Name: p.rec.ID, Device: p.rec.Device, Cordoned: p.rec.Cordoned, Reason: p.rec.Reason,
		Degraded: p.rec.Account.Degraded, Health: "healthy", Workers: []messages.WorkerID{},
		Ledger: messages.Ledger{Foreign: []messages.Foreign{}},
		Budget: messages.Budget{Used: p.rec.Account.Crashloops.Count(p.host.Now(), p.rec.Policy.Window), Max: p.rec.Policy.MaxCrashloops,
			WindowSeconds: messages.Secs(p.rec.Policy.Window)}}
	switch {
	case p.rec.Cordoned:
		st.Health = "cordoned"
	case p.rec.Account.Degraded:
		st.Health = "degraded"
	}
	st.Workers = append(st.Workers, p.order...)
	p.host.PublishPool(st)
}

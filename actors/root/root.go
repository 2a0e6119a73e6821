// Package root is the top of the supervision tree: it owns the pools and what
// is desired of them, answers their escalations, and ends everything in order.
package root

import (
	"fmt"
	"slices"

	"github.com/asynkron/gofun/set"
	"github.com/asynkron/protoactor-go/actor"

	"github.com/rbee-hive/hive/actors/pool"
	"github.com/rbee-hive/hive/actors/worker"
	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/supervision"
)

// Host is the world as the root touches it, over what pools and workers need.
type Host interface {
	pool.Host
	// AllEnded is called once when the shutdown that was asked for is over.
	AllEnded(left []messages.WorkerID)
	// Send tells an actor something from outside a message handler.
	Send(to *actor.PID, message any)
	// DeviceHealthy asks the device of a pool.
	DeviceHealthy(messages.PoolID) bool
}

// Book is what survives a restart of the root's actor.
type Book struct {
	Pools []*pool.Record
	bugs  map[messages.PoolID]*supervision.Window

	ending *ending // the shutdown under way; nil when there is none
}

// Root is the actor.
type Root struct {
	down   bool // this incarnation is over, its pools are told to stop
	book   *Book
	host   Host
	pids   map[messages.PoolID]*actor.PID
	where  map[messages.WorkerID]messages.PoolID
	lives  map[messages.WorkerID]*declared
	after  map[messages.WorkerID]messages.WorkerSpec // to be created again once removed
	needed map[string]bool                           // names somebody depends on; nil when it must be worked out anew
}

// declared is the root's own copy of what it asked for; a Life is its worker's.
type declared struct {
	spec   messages.WorkerSpec
	source string
	state  messages.State
}

// ending is a shutdown under way: how many workers there were, how many had
// ended when that was last told, and whether it is over.
type ending struct {
	total, told int
	over        bool
}

// Props makes the actor's props for a book.
func Props(book *Book, host Host) *actor.Props {
	if book.bugs == nil {
		book.bugs = map[messages.PoolID]*supervision.Window{}
	}
	return actor.PropsFromProducer(func() actor.Actor {
		return &Root{book: book, host: host, pids: map[messages.PoolID]*actor.PID{}, where: map[messages.WorkerID]messages.PoolID{},
			lives: map[messages.WorkerID]*declared{}, after: map[messages.WorkerID]messages.WorkerSpec{}}
	})
}

// Receive handles one message.
func (r *Root) Receive(c actor.Context) {
	switch m := c.Message().(type) {
	case *actor.Started:
		r.started(c)
	case *actor.Restarting, *actor.Stopping:
		r.down = true
	case messages.ApplyConfig:
		r.applyConfig(c, m)
	case messages.CreateWorker:
		r.create(c, m)
	case messages.ChangeWorker:
		r.change(c, m)
	case messages.RemoveWorker:
		r.remove(c, m)
	case messages.DoWorker:
		r.forward(c, m.Worker, m, m.Reply)
	case messages.Callback:
		r.forward(c, m.Worker, m, m.Reply)
	case messages.CordonPool:
		r.cordon(c, m)
	case messages.Shutdown:
		r.shutdown(c, m)
	case pool.Moved:
		r.moved(c, m)
	case pool.Removed:
		r.removed(c, m)
	}
}

func (r *Root) started(c actor.Context) {
	for _, rec := range r.book.Pools { // before any actor may touch the lives
		for _, l := range rec.Lives {
			r.where[l.Spec.Name] = rec.ID
			r.lives[l.Spec.Name] = &declared{spec: l.Spec, source: l.Source, state: l.Machine.State}
		}
	}
	for _, rec := range r.book.Pools {
		pid, err := c.SpawnNamed(pool.Props(rec, r.host), "pool-"+string(rec.ID))
		if err != nil {
			panic(fmt.Errorf("spawn pool actor %s: %w", rec.ID, err))
		}
		r.pids[rec.ID] = pid
	}
	r.progress(c) // a shutdown goes on where the predecessor left it
}

func reply(to chan<- messages.Reply, m messages.Reply) {
	if to != nil {
		to <- m
	}
}

func fail(to chan<- messages.Reply, err error) { reply(to, messages.Reply{Err: err}) }

func unknown(id messages.WorkerID) error {
	return fmt.Errorf("worker %s: %w", id, messages.ErrUnknownWorker)
}

func (r *Root) forward(c actor.Context, id messages.WorkerID, m any, to chan<- messages.Reply) {
	at, ok := r.where[id]
	if !ok {
		fail(to, unknown(id))
		return
	}
	c.Send(r.pids[at], m)
}

// place picks the pool of a worker: the pinned device, or the GPU pool with the
// fewest workers, or cpu.
func (r *Root) place(s messages.WorkerSpec) (messages.PoolID, error) {
	if s.GPU.Count == 0 && len(s.GPU.Devices) == 0 {
		return messages.PoolCPU, nil
	}
	load := map[messages.PoolID]int{}
	for _, at := range r.where {
		load[at]++
	}
	var best *pool.Record
	for _, rec := range r.book.Pools {
		if rec.ID == messages.PoolCPU {
			continue
		}
		if len(s.GPU.Devices) > 0 && !slices.Contains(s.GPU.Devices, string(rec.ID)) && !(rec.Device != nil && slices.Contains(s.GPU.Devices, rec.Device.UUID)) {
			continue
		}
		if best == nil || load[rec.ID] < load[best.ID] {
			best = rec
		}
	}
	if best == nil {
		return "", fmt.Errorf("worker %s asks for a GPU and this host has no pool that fits; use `gpu: none`, or gpu.fake for a trial", s.Name)
	}
	return best.ID, nil
}

func (r *Root) create(c actor.Context, m messages.CreateWorker) {
	if r.down {
		fail(m.Reply, messages.ErrBusy)
		return
	}
	if r.book.ending != nil {
		fail(m.Reply, messages.ErrShuttingDown)
		return
	}
	if _, ok := r.where[m.Spec.Name]; ok {
		fail(m.Reply, fmt.Errorf("worker %s: %w", m.Spec.Name, messages.ErrExists))
		return
	}
	if err := r.add(c, m.Spec, "api", m.Reply); err != nil {
		fail(m.Reply, messages.Problems{{Path: "gpu", Message: err.Error()}})
	}
}

func (r *Root) add(c actor.Context, spec messages.WorkerSpec, source string, to chan<- messages.Reply) error {
	at, err := r.place(spec)
	if err != nil {
		return err
	}
	life := worker.NewLife(spec, source, true, r.host.Now())
	life.SetPool(at)
	r.where[spec.Name] = at
	r.lives[spec.Name] = &declared{spec: spec, source: source}
	r.needed = nil
	st := life.Status(r.host)
	r.host.Publish(st) // in view before the answer is out
	r.host.Emit(messages.Event{Type: messages.WorkerCreated, At: r.host.Now(), Worker: spec.Name, Pool: at})
	c.Send(r.pids[at], pool.Add{Life: life})
	reply(to, messages.Reply{Worker: st})
	return nil
}

func (r *Root) remove(c actor.Context, m messages.RemoveWorker) {
	at, ok := r.where[m.Worker]
	if !ok {
		fail(m.Reply, unknown(m.Worker))
		return
	}
	c.Send(r.pids[at], pool.Remove{Worker: m.Worker, Reply: m.Reply})
}

func (r *Root) removed(c actor.Context, m pool.Removed) {
	delete(r.where, m.Worker)
	delete(r.lives, m.Worker)
	if spec, ok := r.after[m.Worker]; ok {
		delete(r.after, m.Worker)
		_ = r.add(c, spec, "file", nil)
	}
	r.progress(c)
}

func (r *Root) change(c actor.Context, m messages.ChangeWorker) {
	d, ok := r.lives[m.Spec.Name]
	if !ok {
		fail(m.Reply, unknown(m.Spec.Name))
		return
	}
	_, restart := Differ(d.spec, m.Spec)
	d.spec, r.needed = m.Spec, nil
	c.Send(r.pids[r.where[m.Spec.Name]], pool.Change{Worker: m.Spec.Name, NewSpec: worker.NewSpec{Spec: m.Spec, Restart: restart, Reply: m.Reply}})
}

// applyConfig makes the workers that the file declares equal to the new file.
// Workers made by the API are not the file's and stay as they are.
func (r *Root) applyConfig(c actor.Context, m messages.ApplyConfig) {
	if r.book.ending != nil {
		fail(m.Reply, messages.ErrShuttingDown)
		return
	}
	want := map[messages.WorkerID]messages.WorkerSpec{}
	desired, actual := set.New[messages.WorkerID](), set.New[messages.WorkerID]()
	plan := &messages.Plan{Start: []messages.WorkerID{}, Stop: []messages.WorkerID{}, Restart: []messages.Change{},
		Update: []messages.Change{}, Unchanged: []messages.WorkerID{}, Notes: []string{}}
	for _, s := range m.Specs {
		if d, ok := r.lives[s.Name]; ok && d.source != "file" {
			plan.Notes = append(plan.Notes, fmt.Sprintf("worker %s was made by the API and is left alone; remove it with \"hive rm %s\" to let the file declare it", s.Name, s.Name))
			continue
		}
		want[s.Name] = s
		desired.Add(s.Name)
	}
	for id, d := range r.lives {
		if d.source == "file" {
			actual.Add(id)
		}
	}
	plan.Start = sorted(desired.Except(actual))
	plan.Stop = sorted(actual.Except(desired))
	for _, id := range sorted(desired.Intersect(actual)) {
		keys, restart := Differ(r.lives[id].spec, want[id])
		switch {
		case len(keys) == 0:
			plan.Unchanged = append(plan.Unchanged, id)
		case restart:
			plan.Restart = append(plan.Restart, messages.Change{Worker: id, Keys: keys})
		default:
			plan.Update = append(plan.Update, messages.Change{Worker: id, Keys: keys})
		}
	}
	if !m.DryRun {
		r.carryOut(c, plan, want, m.Specs)
	}
	reply(m.Reply, messages.Reply{Plan: plan})
}

func (r *Root) carryOut(c actor.Context, plan *messages.Plan, want map[messages.WorkerID]messages.WorkerSpec, order []messages.WorkerSpec) {
	for _, id := range plan.Stop {
		delete(r.after, id)
		c.Send(r.pids[r.where[id]], pool.Remove{Worker: id})
	}
	for _, ch := range slices.Concat(plan.Restart, plan.Update) {
		id := ch.Worker
		_, restart := Differ(r.lives[id].spec, want[id])
		if at, err := r.place(want[id]); err == nil && poolChanges(r.lives[id].spec, want[id]) && at != r.where[id] {
			r.after[id] = want[id] // moves: ended here, made anew there
			c.Send(r.pids[r.where[id]], pool.Remove{Worker: id})
			continue
		}
		r.lives[id].spec, r.needed = want[id], nil
		c.Send(r.pids[r.where[id]], pool.Change{Worker: id, NewSpec: worker.NewSpec{Spec: want[id], Restart: restart}})
	}
	for _, s := range order {
		if slices.Contains(plan.Start, s.Name) {
			if err := r.add(c, s, "file", nil); err != nil {
				plan.Notes = append(plan.Notes, err.Error())
				plan.Start = slices.DeleteFunc(plan.Start, func(id messages.WorkerID) bool { return id == s.Name })
			}
		}
	}
}

func sorted(s interface{ ToSlice() []messages.WorkerID }) []messages.WorkerID {
	ids := s.ToSlice()
	slices.Sort(ids)
	return slices.Clip(append([]messages.WorkerID{}, ids...))
}

func (r *Root) cordon(c actor.Context, m messages.CordonPool) {
	pid, ok := r.pids[m.Pool]
	if !ok {
		fail(m.Reply, fmt.Errorf("pool %s: %w", m.Pool, messages.ErrUnknownPool))
		return
	}
	r.setCordon(c, m.Pool, pid, m.On, m.Reason)
	reply(m.Reply, messages.Reply{})
}

func (r *Root) setCordon(c actor.Context, id messages.PoolID, pid *actor.PID, on bool, why string) {
	typ := messages.PoolUncordoned
	if on {
		typ = messages.PoolCordoned
	}
	r.host.Emit(messages.Event{Type: typ, At: r.host.Now(), Pool: id, Reason: why})
	c.Send(pid, pool.Cordon{On: on, Reason: why})
}

// moved follows the workers' states: what waits for a dependency is looked at
// again, and a shutdown counts its progress.
func (r *Root) moved(c actor.Context, m pool.Moved) {
	d := r.lives[m.Worker]
	if d == nil {
		return
	}
	d.state = m.State
	if r.neededBy(m.Worker) {
		for _, pid := range r.pids {
			c.Send(pid, pool.Reconsider{})
		}
	}
	r.progress(c)
}

// neededBy reports whether some worker depends on id, by its name or its base name.
func (r *Root) neededBy(id messages.WorkerID) bool {
	if r.needed == nil {
		r.needed = map[string]bool{}
		for _, d := range r.lives {
			for _, dep := range d.spec.DependsOn {
				r.needed[dep] = true
			}
		}
	}
	return r.needed[string(id)] || r.needed[r.lives[id].spec.Base]
}

// shutdown ends every worker at once; progress tells when all are through.
func (r *Root) shutdown(c actor.Context, m messages.Shutdown) {
	if r.book.ending == nil {
		r.book.ending = &ending{total: len(r.lives), told: -1}
		clear(r.after)
		r.host.Emit(messages.Event{Type: messages.HiveStopping, At: r.host.Now(), Reason: m.Reason, Total: len(r.lives)})
	}
	for _, pid := range r.pids {
		c.Send(pid, pool.EndAll{Now: m.Now})
	}
	r.progress(c)
}

func (r *Root) progress(_ actor.Context) {
	e := r.book.ending
	if e == nil || e.over {
		return
	}
	done, left := e.total-len(r.lives), []messages.WorkerID{}
	over := true
	for id, d := range r.lives {
		switch d.state {
		case messages.Stopped:
			done++
		case messages.Unkillable:
			left = append(left, id)
		default:
			over = false
		}
	}
	if done != e.told {
		e.told = done
		r.host.Emit(messages.Event{Type: messages.HiveStopProgress, At: r.host.Now(), Done: done, Total: e.total,
			Reason: fmt.Sprintf("%d/%d stopped", done, e.total)})
	}
	if over {
		e.over = true
		slices.Sort(left)
		r.host.AllEnded(left)
	}
}

package messages

import "fmt"

// State is where a worker stands in its life. The rules between states are the
// table of actors/worker/machine.go; this type only names them.
type State uint8

// The states, in the order a worker usually meets them.
const (
	Pending    State = iota // waits for a device, a port, a dependency or a load slot
	Starting                // resources claimed, process being made
	Loading                 // process lives, not ready
	Idle                    // ready, nothing in flight
	Busy                    // ready, in flight >= 1
	Draining                // takes no new work
	Stopping                // told to end
	Stopped                 // ended on purpose
	Failed                  // this attempt ended badly
	Backoff                 // waits to restart
	Crashloop               // gave up fast restarts
	Unkillable              // survived SIGKILL
	Lost                    // only in a fleet view: its host is unreachable
	stateCount
)

var stateNames = [stateCount]string{"pending", "starting", "loading", "idle", "busy", "draining",
	"stopping", "stopped", "failed", "backoff", "crashloop", "unkillable", "lost"}

// States lists all states in order.
func States() []State {
	all := make([]State, stateCount)
	for i := range all {
		all[i] = State(i)
	}
	return all
}

func (s State) String() string {
	if s < stateCount {
		return stateNames[s]
	}
	return fmt.Sprintf("state(%d)", uint8(s))
}

// ParseState is the inverse of String.
func ParseState(name string) (State, error) {
	for i, n := range stateNames {
		if n == name {
			return State(i), nil
		}
	}
	return 0, fmt.Errorf("no state is called %q", name)
}

// MarshalText writes the state's name.
func (s State) MarshalText() ([]byte, error) { return []byte(s.String()), nil }

// UnmarshalText reads a state's name.
func (s *State) UnmarshalText(b []byte) error {
	v, err := ParseState(string(b))
	if err == nil {
		*s = v
	}
	return err
}

// Ready reports whether a worker in this state can be given work.
func (s State) Ready() bool { return s == Idle || s == Busy }

// Settled reports whether nothing of the worker runs and nothing is planned.
func (s State) Settled() bool { return s == Stopped || s == Failed || s == Crashloop }

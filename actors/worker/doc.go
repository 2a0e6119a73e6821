// Package worker is one worker: its state machine (machine.go, the table; pure),
// the acts a step asks for (actions.go, pure), and the actor that owns the OS
// process and performs them (worker.go, effects.go).
//
// Only the worker actor writes its state. Everything that must survive a restart
// of the actor lies in Life, which its pool keeps and hands to each incarnation.
package worker

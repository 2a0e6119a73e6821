package gpu

import (
	"strings"
	"testing"
)

func TestJudge(t *testing.T) {
	for _, x := range []struct {
		event Event
		want  Action
	}{
		{Event{Xid: 79}, CordonNow},
		{Event{Lost: true}, CordonNow},
		{Event{Xid: 48}, DrainCordon},
		{Event{ECC: true}, DrainCordon},
		{Event{Xid: 94}, RestartWorker},
		{Event{Xid: 63}, Ignore},
		{Event{}, Ignore},
		{Event{Xid: 9999}, DrainCordon},
	} {
		if got := Judge(x.event); got.Action != x.want {
			t.Errorf("%+v: %s, want %s", x.event, got, x.want)
		}
	}
	for _, xid := range []uint64{13, 31, 43, 45, 68, 109} {
		if v := ByXid(xid); v.Action != Application {
			t.Errorf("Xid %d: %s, and it is the application's", xid, v)
		}
	}
}

func TestTheXidTableIsWhole(t *testing.T) {
	for xid, v := range xids {
		if v.Word == "" || v.Source == SourceDefault || v.Source.String() == "" {
			t.Errorf("Xid %d lacks a word or a source: %+v", xid, v)
		}
		if strings.HasPrefix(v.Action.String(), "action ") {
			t.Errorf("Xid %d has no known action", xid)
		}
		switch v.Source { // the buckets say how mild an action may be
		case SourceRestartApp:
			if v.Action != RestartWorker {
				t.Errorf("Xid %d: %s for RESTART_APP", xid, v.Action)
			}
		case SourceIgnore:
			if v.Action != Ignore {
				t.Errorf("Xid %d: %s for IGNORE", xid, v.Action)
			}
		case SourceResetGPU, SourceRestartMachine, SourceWorkflow, SourceMechanicals:
			if v.Action < DrainCordon {
				t.Errorf("Xid %d: %s, and the GPU needs more", xid, v.Action)
			}
		case SourceDevicePlugin:
			if v.Action != Application {
				t.Errorf("Xid %d: %s for an application error", xid, v.Action)
			}
		case SourceDefault, SourceUnrated: // nobody says
		}
	}
}

func TestAnEventConcerns(t *testing.T) {
	whole, part := Device{UUID: "GPU-1"}, Device{UUID: "MIG-1", MIG: true, Parent: "GPU-1"}
	for _, x := range []struct {
		uuid        string
		whole, part bool
	}{{"GPU-1", true, true}, {"MIG-1", false, true}, {"GPU-2", false, false}, {"", true, true}} {
		e := Event{UUID: x.uuid}
		if e.Concerns(whole) != x.whole || e.Concerns(part) != x.part {
			t.Errorf("an event of %q concerns the GPU %v, its part %v", x.uuid, e.Concerns(whole), e.Concerns(part))
		}
	}
}

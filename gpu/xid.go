package gpu

import "fmt"

// Action is what hive does about a device's fault.
type Action uint8

// The actions, from the mildest.
const (
	// Ignore: told in the log and counted, nothing more.
	Ignore Action = iota
	// Application: the fault is the worker's own. Its end says the rest; the
	// device is well.
	Application
	// RestartWorker: the workers on the device are to be restarted, since what
	// they have there may be gone; the device goes on.
	RestartWorker
	// DrainCordon: the device takes no new worker, and those on it may finish.
	DrainCordon
	// CordonNow: the device cannot be used until it is reset or replaced; the
	// workers on it end at once.
	CordonNow
)

func (a Action) String() string {
	switch a {
	case Ignore:
		return "ignore"
	case Application:
		return "application"
	case RestartWorker:
		return "restart worker"
	case DrainCordon:
		return "drain and cordon"
	case CordonNow:
		return "cordon now"
	}
	return fmt.Sprintf("action %d", uint8(a))
}

// Source says where a judgement comes from.
type Source uint8

// The sources. In the catalogue, the bucket of the immediate action is meant.
const (
	// SourceDefault: no public text judges this Xid; see Unknown.
	SourceDefault Source = iota
	// SourceRestartApp and the following are buckets of the NVIDIA page "Analyzing
	// Xid Errors with the Xid Catalog", table 1, column "Resolution Bucket
	// (Immediate Action)", docs.nvidia.com/deploy/xid-errors.
	SourceRestartApp
	SourceResetGPU
	SourceIgnore
	SourceRestartMachine // buckets RESTART_BM and RESTART_VM
	SourceWorkflow       // a procedure of several steps that begins with taking the GPU out of use
	SourceMechanicals    // bucket CHECK_MECHANICALS
	SourceUnrated        // listed there without a bucket; judged by its description
	// SourceDevicePlugin: NVIDIA/k8s-device-plugin, internal/rm/health.go, the list
	// of application errors after which a GPU counts as healthy.
	SourceDevicePlugin
)

var sources = map[Source]string{
	SourceDefault:        "hive's rule for an Xid that no public text judges",
	SourceRestartApp:     "NVIDIA Xid catalog, table 1, RESTART_APP",
	SourceResetGPU:       "NVIDIA Xid catalog, table 1, RESET_GPU",
	SourceIgnore:         "NVIDIA Xid catalog, table 1, IGNORE",
	SourceRestartMachine: "NVIDIA Xid catalog, table 1, RESTART_BM or RESTART_VM",
	SourceWorkflow:       "NVIDIA Xid catalog, table 1, a workflow",
	SourceMechanicals:    "NVIDIA Xid catalog, table 1, CHECK_MECHANICALS",
	SourceUnrated:        "NVIDIA Xid catalog, table 1, listed without an action",
	SourceDevicePlugin:   "NVIDIA k8s-device-plugin, internal/rm/health.go, application errors",
}

func (s Source) String() string { return sources[s] }

// Verdict is what a fault means.
type Verdict struct {
	Action Action
	Word   string // for people
	Source Source
}

// Unknown is the verdict on an Xid outside the table. Those are the codes of
// newer hardware, mostly faults. Ignoring a real one leaves workers that hang or
// answer wrongly; cordoning for a harmless one costs capacity until a person looks,
// and interrupts nobody. The device plugin counts them as unhealthy as well.
var Unknown = Verdict{DrainCordon, "a fault that hive does not know", SourceDefault}

// ByXid judges an Xid.
func ByXid(xid uint64) Verdict {
	if v, ok := xids[xid]; ok {
		return v
	}
	return Unknown
}

// Judge says what a device's fault means.
func Judge(e Event) Verdict {
	switch {
	case e.Lost:
		return Verdict{CordonNow, "the device stopped answering", SourceDefault}
	case e.Xid != 0:
		return ByXid(e.Xid)
	case e.ECC:
		return ByXid(48) // the same fault, told by another event
	}
	return Verdict{Ignore, "nothing of note", SourceDefault}
}

// String is the verdict in one line: "GPU has fallen off the bus: cordon now".
func (v Verdict) String() string { return v.Word + ": " + v.Action.String() }

// xids is the table. Where a bucket is RESET_GPU, CordonNow stands for faults
// after which nothing on the device goes on, DrainCordon for the others.
//
// The application errors are taken from the device plugin as a whole. It differs
// from the catalogue in 109, a context switch that took too long: the catalogue
// asks for a reset, but a single overlong kernel causes it too, and a device that
// is really stuck tells of more (46, 119, or loss).
var xids = map[uint64]Verdict{
	13:  {Application, "the worker's kernel went wrong on the GPU", SourceDevicePlugin},
	31:  {Application, "the worker touched memory that is not its own", SourceDevicePlugin},
	43:  {Application, "the worker's work on the GPU was stopped by a fault of its own", SourceDevicePlugin},
	45:  {Application, "the worker's work was cleared away, as after a kill", SourceDevicePlugin},
	68:  {Application, "the video decoder met an error", SourceDevicePlugin},
	109: {Application, "switching between programs took too long", SourceDevicePlugin},

	8:   {RestartWorker, "the GPU stopped processing one program", SourceRestartApp},
	11:  {RestartWorker, "broken command stream", SourceRestartApp},
	25:  {RestartWorker, "illegal command stream", SourceRestartApp},
	32:  {RestartWorker, "the command stream was corrupted on its way", SourceRestartApp},
	39:  {RestartWorker, "copy engine 0 failed", SourceRestartApp},
	40:  {RestartWorker, "copy engine 1 failed", SourceRestartApp},
	41:  {RestartWorker, "copy engine 2 failed", SourceRestartApp},
	60:  {RestartWorker, "the video processor failed", SourceRestartApp},
	69:  {RestartWorker, "illegal use of the graphics engine", SourceRestartApp},
	70:  {RestartWorker, "copy engine 3 failed", SourceRestartApp},
	71:  {RestartWorker, "copy engine 4 failed", SourceRestartApp},
	72:  {RestartWorker, "copy engine 5 failed", SourceRestartApp},
	75:  {RestartWorker, "copy engine 6 failed", SourceRestartApp},
	76:  {RestartWorker, "copy engine 7 failed", SourceRestartApp},
	77:  {RestartWorker, "copy engine 8 failed", SourceRestartApp},
	80:  {RestartWorker, "corrupted data was sent to the GPU", SourceRestartApp},
	82:  {RestartWorker, "JPEG engine 0 failed", SourceRestartApp},
	83:  {RestartWorker, "video decoder 1 failed", SourceRestartApp},
	84:  {RestartWorker, "video decoder 2 failed", SourceRestartApp},
	85:  {RestartWorker, "copy engine 9 failed", SourceRestartApp},
	86:  {RestartWorker, "the optical flow engine failed", SourceRestartApp},
	88:  {RestartWorker, "video decoder 3 failed", SourceRestartApp},
	89:  {RestartWorker, "video decoder 4 failed", SourceRestartApp},
	94:  {RestartWorker, "a memory error, contained to one program", SourceRestartApp},
	96:  {RestartWorker, "video decoder 5 failed", SourceRestartApp},
	97:  {RestartWorker, "video decoder 6 failed", SourceRestartApp},
	98:  {RestartWorker, "video decoder 7 failed", SourceRestartApp},
	99:  {RestartWorker, "JPEG engine 1 failed", SourceRestartApp},
	100: {RestartWorker, "JPEG engine 2 failed", SourceRestartApp},
	101: {RestartWorker, "JPEG engine 3 failed", SourceRestartApp},
	102: {RestartWorker, "JPEG engine 4 failed", SourceRestartApp},
	103: {RestartWorker, "JPEG engine 5 failed", SourceRestartApp},
	104: {RestartWorker, "JPEG engine 6 failed", SourceRestartApp},
	105: {RestartWorker, "JPEG engine 7 failed", SourceRestartApp},
	126: {RestartWorker, "copy engine 10 failed", SourceRestartApp},
	127: {RestartWorker, "copy engine 11 failed", SourceRestartApp},
	128: {RestartWorker, "copy engine 12 failed", SourceRestartApp},
	129: {RestartWorker, "copy engine 13 failed", SourceRestartApp},
	130: {RestartWorker, "copy engine 14 failed", SourceRestartApp},
	131: {RestartWorker, "copy engine 15 failed", SourceRestartApp},
	132: {RestartWorker, "copy engine 16 failed", SourceRestartApp},
	133: {RestartWorker, "copy engine 17 failed", SourceRestartApp},
	134: {RestartWorker, "copy engine 18 failed", SourceRestartApp},
	135: {RestartWorker, "copy engine 19 failed", SourceRestartApp},
	139: {RestartWorker, "optical flow engine 1 failed", SourceRestartApp},

	48:  {DrainCordon, "a memory error that ECC could not correct", SourceWorkflow},
	54:  {DrainCordon, "the power cable of the GPU is not connected", SourceMechanicals},
	64:  {DrainCordon, "a broken memory row could not be replaced", SourceResetGPU},
	74:  {DrainCordon, "NVLink error", SourceWorkflow},
	136: {DrainCordon, "an NVLink did not come up", SourceResetGPU},
	144: {DrainCordon, "NVLink error (SAW)", SourceWorkflow},
	145: {DrainCordon, "NVLink error (RLW)", SourceWorkflow},
	146: {DrainCordon, "NVLink error (TLW)", SourceWorkflow},
	147: {DrainCordon, "NVLink error (TREX)", SourceWorkflow},
	148: {DrainCordon, "NVLink error (NVLPW)", SourceWorkflow},
	149: {DrainCordon, "NVLink error (NETIR)", SourceWorkflow},
	150: {DrainCordon, "NVLink error (MSE)", SourceWorkflow},
	151: {DrainCordon, "the GPU could not change its encryption keys", SourceRestartMachine},
	155: {DrainCordon, "an NVLink went down", SourceResetGPU},
	156: {DrainCordon, "a broken part of the GPU was retired and waits for a reset", SourceResetGPU},
	168: {DrainCordon, "the GPU has less memory than it should", SourceUnrated},
	171: {DrainCordon, "a memory error that ECC could not correct, in DRAM", SourceUnrated},
	172: {DrainCordon, "a memory error that ECC could not correct, in SRAM", SourceUnrated},

	46:  {CordonNow, "the GPU stopped processing", SourceResetGPU},
	62:  {CordonNow, "a controller inside the GPU halted", SourceResetGPU},
	79:  {CordonNow, "the GPU has fallen off the bus", SourceRestartMachine},
	95:  {CordonNow, "a memory error that may touch every program", SourceResetGPU},
	110: {CordonNow, "security fault in the GPU", SourceResetGPU},
	119: {CordonNow, "the GPU's system processor does not answer", SourceResetGPU},
	120: {CordonNow, "the GPU's system processor failed", SourceResetGPU},
	140: {CordonNow, "memory errors that could not be set aside", SourceResetGPU},
	143: {CordonNow, "the GPU could not be initialised", SourceResetGPU},
	158: {CordonNow, "the GPU did not answer in time", SourceResetGPU},
	167: {CordonNow, "the PCI link to the GPU did not answer in time", SourceUnrated},
	169: {CordonNow, "the GPU's security processor halted", SourceUnrated},

	14:  {Ignore, "a fault that a program made up", SourceIgnore},
	37:  {Ignore, "firmware met a method it does not know", SourceIgnore},
	38:  {Ignore, "firmware watchdog", SourceIgnore},
	44:  {Ignore, "a graphics fault while switching programs", SourceIgnore},
	63:  {Ignore, "a broken memory row is replaced at the next reset", SourceIgnore},
	66:  {Ignore, "illegal access by the driver", SourceIgnore},
	67:  {Ignore, "illegal access by the driver", SourceIgnore},
	92:  {Ignore, "many memory errors, all corrected", SourceIgnore},
	93:  {Ignore, "the GPU's own store is at its write limit", SourceIgnore},
	106: {Ignore, "a test message", SourceIgnore},
	107: {Ignore, "a silent test message", SourceIgnore},
	108: {Ignore, "NVLink translation error at the far end", SourceIgnore},
	121: {Ignore, "corrected errors between GPU and processor", SourceIgnore},
	137: {Ignore, "a program used NVLink in a way it may not", SourceIgnore},
	141: {Ignore, "a CUDA fast path failed", SourceIgnore},
	152: {Ignore, "DLA memory fault", SourceIgnore},
	153: {Ignore, "DLA timeout", SourceIgnore},
	157: {Ignore, "a broken part could not be retired; work may go on", SourceIgnore},
	160: {Ignore, "a memory channel was retired", SourceIgnore},
	161: {Ignore, "a memory channel could not be retired", SourceIgnore},
	// The number alone tells no action: the driver's summary of another Xid, which
	// comes beside it and is judged by itself.
	154: {Ignore, "the driver changed its advice; see the Xid beside it", SourceUnrated},
	162: {Ignore, "power smoothing is on again", SourceUnrated},
	163: {Ignore, "power smoothing is off", SourceUnrated},
	164: {Ignore, "power smoothing will soon wear out", SourceUnrated},
	165: {Ignore, "power smoothing is worn out", SourceUnrated},
}

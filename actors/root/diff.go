package root

import (
	"reflect"
	"slices"

	"github.com/rbee-hive/hive/messages"
)

// quietKeys can change under a running process: hive reads them when it needs them.
var quietKeys = []string{"restart", "stop", "labels", "priority", "depends_on", "logs", "idle_timeout", "heartbeat", "health", "progress"}

// Differ names the keys in which two specs differ, and whether the process must
// be restarted to follow. It is pure.
func Differ(a, b messages.WorkerSpec) (keys []string, restart bool) {
	va, vb := reflect.ValueOf(a), reflect.ValueOf(b)
	for i := range va.NumField() {
		key := va.Type().Field(i).Tag.Get("yaml")
		if key == "-" || key == "replicas" || same(va.Field(i), vb.Field(i)) {
			continue
		}
		keys = append(keys, key)
		restart = restart || !slices.Contains(quietKeys, key)
	}
	return keys, restart
}

func same(a, b reflect.Value) bool {
	if (a.Kind() == reflect.Map || a.Kind() == reflect.Slice) && a.Len() == 0 && b.Len() == 0 {
		return true
	}
	return reflect.DeepEqual(a.Interface(), b.Interface())
}

func poolChanges(a, b messages.WorkerSpec) bool { return !reflect.DeepEqual(a.GPU, b.GPU) }

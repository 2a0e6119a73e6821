package http

import (
	"encoding/json"
	"testing"

	"github.com/rbee-hive/hive/messages"
)

// FuzzCallback reads any body as any callback: what passes is within its bounds.
func FuzzCallback(f *testing.F) {
	for _, s := range []string{`{"attempt":1,"in_flight":3}`, `{"attempt":1,"value":0.5,"stage":"x"}`, `{"attempt":1,"value":1e999}`, `{"attempt":-1}`,
		`{"attempt":1,"in_flight":-1}`, `{"attempt":1,"extend_seconds":1e300}`, `{"attempt":18446744073709551615,"kv_cache_used":2}`, `[]`, ``, `{"attempt":1,"state":"busy"}`} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, body []byte) {
		var in told
		if json.Unmarshal(body, &in) != nil {
			return
		}
		for _, k := range []messages.CallbackKind{messages.CallbackReady, messages.CallbackHeartbeat, messages.CallbackProgress, messages.CallbackState} {
			if in.wrong(k) != "" {
				continue
			}
			switch {
			case in.Attempt == 0:
				t.Error("no attempt")
			case in.InFlight != nil && *in.InFlight < 0:
				t.Errorf("in flight %d", *in.InFlight)
			case in.Value != nil && !(*in.Value >= 0 && *in.Value <= 1):
				t.Errorf("value %g", *in.Value)
			case in.KVCacheUsed != nil && !(*in.KVCacheUsed >= 0 && *in.KVCacheUsed <= 1):
				t.Errorf("kv cache %g", *in.KVCacheUsed)
			case in.Extend != nil && !(*in.Extend >= 0 && *in.Extend <= mostExtend):
				t.Errorf("extend %g", *in.Extend)
			}
		}
	})
}

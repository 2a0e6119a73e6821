package engine

import "slices"

// httpEngine is any HTTP server. It has no health path of its own: the worker's
// configuration names one, and any 2xx there is ready.
func httpEngine() Engine {
	return Engine{
		Name:  "http",
		Judge: judgeStatus,
		Load:  noLoad,
		rules: slices.Concat(torchRules, bindRules, usageRules, hubRules, ggmlRules),
	}
}

package engine

import "slices"

// execEngine is any process: nothing is asked of it, only its last words are
// read. Judge is there for a health path that the configuration names.
func execEngine() Engine {
	return Engine{
		Name:  "exec",
		Judge: judgeStatus,
		Load:  noLoad,
		rules: slices.Concat(torchRules, bindRules, usageRules, hubRules, ggmlRules),
	}
}

package engine

import "slices"

// hiveEngine is a worker that speaks hive's contract: its heartbeats tell its
// readiness, progress and figures, so nothing is asked of it.
func hiveEngine() Engine {
	return Engine{
		Name:  "hive",
		Judge: judgeStatus,
		Load:  noLoad,
		rules: slices.Concat(torchRules, bindRules, usageRules, hubRules, ggmlRules),
	}
}

// rbeeEngine is an rbee worker: it calls back when ready and sends heartbeats,
// and answers GET /health with 200 once it serves.
func rbeeEngine() Engine {
	return Engine{
		Name:   "rbee",
		Health: "/health",
		Judge:  judgeStatus,
		Load:   noLoad,
		rules:  slices.Concat(torchRules, bindRules, usageRules, hubRules, ggmlRules),
	}
}

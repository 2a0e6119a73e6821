package main

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

func TestNumberKeepsThreeDigitsThatMeanSomething(t *testing.T) {
	for _, c := range []struct {
		in   float64
		want string
	}{{0, "0"}, {0.01234, "0.0123"}, {1.2345, "1.23"}, {12.345, "12.3"}, {1234.5, "1234"}, {3, "3"}, {-2.5, "-2.50"}} {
		if got := number(c.in); got != c.want {
			t.Errorf("number(%v) = %q, want %q", c.in, got, c.want)
		}
	}
}

func TestQuantile(t *testing.T) {
	var d []time.Duration
	for i := range 100 {
		d = append(d, time.Duration(100-i)*time.Millisecond)
	}
	for q, want := range map[float64]float64{0: 1, .5: 51, .99: 100, 1: 100} {
		if got := quantile(d, q); got != want {
			t.Errorf("quantile(1..100 ms, %v) = %v, want %v", q, got, want)
		}
	}
}

func TestReportSaysWhetherATargetIsMet(t *testing.T) {
	var out bytes.Buffer
	report(&out, []row{
		{what: "slow", unit: "ms", hive: 9, plain: 3, hasPlain: true, target: timesPlain(2)},
		{what: "quick", unit: "ms", hive: 9, plain: 3, hasPlain: true, target: timesPlain(3)},
		{what: "rate", unit: "requests/s", hive: 10, target: atLeast(11)},
		{what: "told", unit: "ms", hive: 10},
	})
	for _, want := range []string{
		"| slow | ms | 9 | 3 | 3 | ≤ 2 × plain | **no** |",
		"| quick | ms | 9 | 3 | 3 | ≤ 3 × plain | yes |",
		"| rate | requests/s | 10 |  |  | ≥ 11 requests/s | **no** |",
		"| told | ms | 10 |  |  | none |  |",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("the report lacks %q:\n%s", want, out.String())
		}
	}
}

func TestPlainLoopEndsTheStubborn(t *testing.T) {
	cmds, _, err := plainMany([]string{"sh", "-c", `trap "" TERM; while :; do sleep 100; done`}, 2)
	if err != nil {
		t.Skipf("no shell to start: %v", err)
	}
	if took := plainEnd(cmds, 9, 0); took > 10*time.Second {
		t.Errorf("ending two shells by SIGKILL took %s", took)
	}
}

package hive

import "testing"

func TestTheLastPercentageIsTheProgress(t *testing.T) {
	for text, want := range map[string]float64{"42%": 0.42, "a 10% b 99.5 %\n": 0.995, "100%": 1, "Fetching: 3%|▍ | 1/30\r 7%|▋ ": 0.07, "250%": -1, "no number %": -1, "": -1, "%": -1} {
		got, ok := lastPercent([]byte(text))
		if ok != (want >= 0) || ok && got != want {
			t.Errorf("%q: %g, %v", text, got, ok)
		}
	}
}

func FuzzLastPercent(f *testing.F) {
	f.Add([]byte("42%"))
	f.Add([]byte("99999999999999999999%"))
	f.Fuzz(func(t *testing.T, b []byte) {
		if v, ok := lastPercent(b); ok && !(v >= 0 && v <= 1) {
			t.Errorf("%q: %g", b, v)
		}
	})
}

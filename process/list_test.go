package process

import (
	"errors"
	"slices"
	"testing"
)

// world answers lists one after the other, and tells who is dead when looked at.
type world struct {
	lists [][]int
	dead  map[int]bool // listed, and a zombie by the time it is read
	gone  map[int]bool // listed, and not there any more
}

func (w *world) list() ([]int, error) {
	l := w.lists[0]
	if len(w.lists) > 1 {
		w.lists = w.lists[1:]
	}
	return l, nil
}

func (w *world) read(pid int) (stat, error) {
	switch {
	case w.gone[pid]:
		return stat{}, errors.New("no such process")
	case w.dead[pid]:
		return stat{pid: pid, state: 'Z', threads: 1}, nil
	}
	return stat{pid: pid, state: 'S', threads: 1, pgid: 10}, nil
}

func TestATreeIsEmptyOnlyWhenItsListIs(t *testing.T) {
	for name, c := range map[string]struct {
		w    world
		want []int
	}{
		"nothing is listed":                     {world{lists: [][]int{{}}}, nil},
		"a parent that left a child as it went": {world{lists: [][]int{{11}, {12}}, gone: map[int]bool{11: true}}, []int{12}},
		"a parent that is a zombie by now":      {world{lists: [][]int{{11}, {12}}, dead: map[int]bool{11: true}}, []int{12}},
		"a chain of parents":                    {world{lists: [][]int{{11}, {12}, {13}}, dead: map[int]bool{11: true}, gone: map[int]bool{12: true}}, []int{13}},
		"a dead one, and nothing after it":      {world{lists: [][]int{{11}, {}}, dead: map[int]bool{11: true}}, nil},
		"one that the kernel goes on listing":   {world{lists: [][]int{{11}}, dead: map[int]bool{11: true}}, []int{11}},
		"a dead one beside a living one":        {world{lists: [][]int{{11, 12}}, dead: map[int]bool{11: true}}, []int{12}},
	} {
		got, err := (&Proc{pid: 10}).listed(c.w.list, c.w.read)
		var pids []int
		for _, m := range got {
			pids = append(pids, m.PID)
		}
		if err != nil || !slices.Equal(pids, c.want) {
			t.Errorf("%s: %v, %v; want %v", name, pids, err, c.want)
		}
	}
}

func TestAReadingOfProcHoldsWhatWasBornMeanwhile(t *testing.T) {
	w := world{lists: [][]int{{11, 20}, {12, 20}, {12, 20}}, gone: map[int]bool{11: true}}
	tab, err := tabulate(w.list, w.read)
	if err != nil || len(tab) != 2 || tab[12].pid != 12 || tab[20].pid != 20 {
		t.Errorf("table %v, %v; it lacks 12, the child of one that died meanwhile", tab, err)
	}
}

func TestAZombieWhoseThreadsLiveIsNotDead(t *testing.T) {
	for st, dead := range map[stat]bool{{state: 'Z', threads: 1}: true, {state: 'Z', threads: 3}: false, {state: 'D', threads: 1}: false, {state: 'X'}: true} {
		if st.dead() != dead {
			t.Errorf("%c with %d threads: dead is %v", st.state, st.threads, st.dead())
		}
	}
}

package main

import (
	"fmt"
	"io"

	"github.com/schollz/progressbar/v3"

	"github.com/rbee-hive/hive/messages"
)

// progressLine redraws one line; only where that can be done.
type progressLine struct {
	to    io.Writer
	term  terminal
	drawn bool
}

func (p *progressLine) text(s string) {
	if !p.term.live {
		return
	}
	p.drawn = true
	fmt.Fprintf(p.to, "\r\x1b[K%s", p.term.cut(s, p.term.width()-1))
}

func (p *progressLine) clear() {
	if p.drawn {
		fmt.Fprint(p.to, "\r\x1b[K")
		p.drawn = false
	}
}

// barMax is what the bar counts to. It never gets there: that a worker is ready
// is told by its state and not by its progress.
const barMax = 1000

// awaited shows on stderr how a worker that is waited for comes along: on a
// terminal a line that is drawn again, with a bar once progress is known;
// elsewhere a line for each tenth.
type awaited struct {
	quiet bool
	line  progressLine
	bar   *progressbar.ProgressBar
	last  messages.WorkerStatus

	attempt messages.Attempt // what the tenth below is of
	stage   string
	tenth   int
}

func newAwaited(a *app) *awaited {
	w := &awaited{quiet: a.json(), line: progressLine{to: a.errOut, term: a.errTerm}, tenth: -1}
	if w.quiet || !a.errTerm.live {
		return w
	}
	full, empty := a.errTerm.barParts()
	edge := "|"
	w.bar = progressbar.NewOptions(barMax,
		progressbar.OptionSetWriter(a.errOut),
		progressbar.OptionSetTheme(progressbar.Theme{Saucer: full, SaucerPadding: empty, BarStart: edge, BarEnd: edge}),
		progressbar.OptionSetPredictTime(false), // a load's stages differ too much in speed
		progressbar.OptionSetElapsedTime(true),
		progressbar.OptionUseANSICodes(true))
	w.bar.StartWithoutRender() // so that it tells the time since the wait began
	return w
}

// draw shows where the worker stands.
func (w *awaited) draw(s messages.WorkerStatus) {
	w.last = s
	switch {
	case w.quiet:
	case w.bar == nil:
		w.tell(s)
	case !comes(s):
		w.line.text(fmt.Sprintf("%s %s %s", s.Name, stateText(s, w.line.term), printable(noteText(s))))
	default:
		w.line.drawn = true
		columns := w.line.term.width()
		about := fmt.Sprintf("%s %s", s.Name, s.State)
		if stage := printable(s.Progress.Stage); stage != "" {
			about += " " + stage
		}
		about = w.line.term.cut(about, columns/2)
		// What the library writes beside the description and the bar: " 100% || [59m59s] " and the cursor.
		progressbar.OptionSetWidth(min(max(columns-len([]rune(about))-20, 5), 40))(w.bar)
		_ = w.bar.Set(min(share(s.Progress.Value, barMax), barMax-1))
		w.bar.Describe(about)
	}
}

// tell writes a line when the load has come a tenth further, or begins a stage.
func (w *awaited) tell(s messages.WorkerStatus) {
	if !comes(s) {
		return
	}
	p := s.Progress
	tenth := share(p.Value, 10)
	if w.attempt == s.Attempt && w.stage == p.Stage && tenth <= w.tenth {
		return
	}
	w.attempt, w.stage, w.tenth = s.Attempt, p.Stage, tenth
	stage := printable(p.Stage)
	if stage != "" {
		stage = " " + stage
	}
	fmt.Fprintf(w.line.to, "%s %s%s %s\n", s.Name, s.State, stage, percent(p.Value))
}

func (w *awaited) clear() { w.line.clear() }

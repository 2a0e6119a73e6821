package engine

import (
	"bytes"
	"cmp"
	"errors"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// The bounds of what is read. A busy vLLM with every histogram is some 200 KB;
// whatever is far above is not an engine's figures.
const (
	maxBody    = 8 << 20 // bytes of one answer
	maxSamples = 50_000  // samples kept of one answer
	maxLine    = 64 << 10
	maxCount   = 1_000_000_000 // a gauge above is not a number of requests
)

var (
	errTooLarge   = errors.New("the answer is too large for an engine's figures")
	errNotMetrics = errors.New("the answer is not in the Prometheus text format")
)

// sample is one line of an exposition: its labels and its value, finite and
// not negative.
type sample struct {
	labels map[string]string
	value  float64
}

// exposition is the samples of an answer by metric name.
type exposition map[string][]sample

// parseExposition reads the samples of the metrics whose names begin with
// prefix. It passes over lines it cannot read, values that are not finite or
// are negative, and exemplars; none of the metrics hive reads has such a value.
// A body with text but no sample and no comment is an error: it is a page, not
// figures. An empty body is none, for an engine may have nothing to tell yet.
//
// Source: Prometheus documentation, exposition formats, text-based format.
func parseExposition(body []byte, prefix string) (exposition, error) {
	if len(body) > maxBody {
		return nil, errTooLarge
	}
	found := exposition{}
	kept, understood := 0, false
	for line := range bytes.Lines(body) {
		line = bytes.TrimSpace(line)
		switch {
		case len(line) == 0 || len(line) > maxLine:
			continue
		case line[0] == '#':
			understood = understood || bytes.HasPrefix(line, []byte("# HELP ")) ||
				bytes.HasPrefix(line, []byte("# TYPE ")) || bytes.Equal(line, []byte("# EOF"))
			continue
		}
		name, s, ok := parseSample(string(line))
		if !ok {
			continue
		}
		understood = true
		if !strings.HasPrefix(name, prefix) || math.IsNaN(s.value) || math.IsInf(s.value, 0) || s.value < 0 {
			continue
		}
		if kept++; kept > maxSamples {
			return nil, errTooLarge
		}
		found[name] = append(found[name], s)
	}
	if !understood && len(bytes.TrimSpace(body)) > 0 {
		return nil, errNotMetrics
	}
	return found, nil
}

// parseSample reads `name{label="value",...} number [timestamp] [# exemplar]`.
func parseSample(line string) (string, sample, bool) {
	end := 0
	for end < len(line) && nameByte(line[end], end == 0) {
		end++
	}
	if end == 0 {
		return "", sample{}, false
	}
	name, rest := line[:end], strings.TrimLeft(line[end:], " \t")
	labels := map[string]string(nil)
	if strings.HasPrefix(rest, "{") {
		var ok bool
		if labels, rest, ok = parseLabels(rest[1:]); !ok {
			return "", sample{}, false
		}
	}
	fields := strings.Fields(rest)
	if len(fields) == 0 {
		return "", sample{}, false
	}
	if len(fields) > 1 && fields[1] != "#" {
		if _, err := strconv.ParseFloat(fields[1], 64); err != nil || len(fields) > 2 && fields[2] != "#" {
			return "", sample{}, false
		}
	}
	value, err := strconv.ParseFloat(fields[0], 64)
	if err != nil && !errors.Is(err, strconv.ErrRange) {
		return "", sample{}, false
	}
	return name, sample{labels, value}, true
}

// parseLabels reads what follows the opening brace and returns what follows the
// closing one.
func parseLabels(s string) (labels map[string]string, rest string, ok bool) {
	labels = map[string]string{}
	for {
		s = strings.TrimLeft(s, " \t,")
		if strings.HasPrefix(s, "}") {
			return labels, s[1:], true
		}
		key, after, found := strings.Cut(s, "=")
		after = strings.TrimLeft(after, " \t")
		if !found || !strings.HasPrefix(after, `"`) {
			return nil, "", false
		}
		var value strings.Builder
		i := 1
		for ; i < len(after) && after[i] != '"'; i++ {
			if after[i] != '\\' || i+1 == len(after) {
				value.WriteByte(after[i])
				continue
			}
			i++
			if after[i] == 'n' {
				value.WriteByte('\n')
			} else {
				value.WriteByte(after[i])
			}
		}
		if i >= len(after) {
			return nil, "", false
		}
		labels[strings.TrimSpace(key)] = value.String()
		s = after[i+1:]
	}
}

func nameByte(c byte, first bool) bool {
	return c == '_' || c == ':' || c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || !first && c >= '0' && c <= '9'
}

// sum adds a metric over its label sets, nil when the answer lacks it.
func (e exposition) sum(name string) *float64 {
	samples := e[name]
	if len(samples) == 0 {
		return nil
	}
	total := 0.0
	for _, s := range samples {
		total += s.value
	}
	return finite(total)
}

// sumOver adds the largest value of each distinct value of label: for a metric
// that several ranks of one replica report alike, replicas being told apart by
// label.
func (e exposition) sumOver(name, label string) *float64 {
	largest := map[string]float64{}
	for _, s := range e[name] {
		largest[s.labels[label]] = max(largest[s.labels[label]], s.value)
	}
	if len(largest) == 0 {
		return nil
	}
	total := 0.0
	for _, v := range largest {
		total += v
	}
	return finite(total)
}

// ratio is the largest value of a metric over its label sets, within 0 to 1: of
// several caches the fullest is the one that makes requests wait.
func (e exposition) ratio(name string) *float64 {
	samples := e[name]
	if len(samples) == 0 {
		return nil
	}
	largest := 0.0
	for _, s := range samples {
		largest = max(largest, s.value)
	}
	return finite(min(largest, 1))
}

// latency fills in what a histogram of whole requests, in seconds, tells: their
// count, their time together and two quantiles, all since the engine started.
func (e exposition) latency(name string, stats *messages.Stats) {
	stats.Requests, stats.RequestSeconds = e.sum(name+"_count"), e.sum(name+"_sum")
	stats.LatencyP50, stats.LatencyP99 = e.quantile(name, 0.50, 1000), e.quantile(name, 0.99, 1000)
}

// quantile estimates the q-quantile of a histogram, times scale, by linear
// interpolation within a bucket, as PromQL's histogram_quantile does. Beyond
// the last finite bound it is that bound. It is nil when nothing was observed
// or the buckets make no sense.
func (e exposition) quantile(name string, q, scale float64) *float64 {
	byBound := map[float64]float64{}
	for _, s := range e[name+"_bucket"] {
		bound, err := strconv.ParseFloat(s.labels["le"], 64)
		if err != nil || math.IsNaN(bound) || bound < 0 {
			return nil
		}
		byBound[bound] += s.value
	}
	type bucket struct{ bound, count float64 }
	var buckets []bucket
	for bound, count := range byBound {
		buckets = append(buckets, bucket{bound, count})
	}
	slices.SortFunc(buckets, func(a, b bucket) int { return cmp.Compare(a.bound, b.bound) })
	if len(buckets) < 2 || !math.IsInf(buckets[len(buckets)-1].bound, 1) {
		return nil
	}
	total := buckets[len(buckets)-1].count
	if total <= 0 || finite(total) == nil {
		return nil
	}
	rank, lower := q*total, bucket{}
	for _, b := range buckets {
		switch {
		case b.count < lower.count:
			return nil // cumulative counts never fall
		case b.count < rank:
			lower = b
			continue
		case math.IsInf(b.bound, 1):
			return finite(lower.bound * scale)
		}
		return finite((lower.bound + (b.bound-lower.bound)*(rank-lower.count)/(b.count-lower.count)) * scale)
	}
	return nil
}

// finite returns v when it is a finite number, not negative.
func finite(v float64) *float64 {
	if math.IsNaN(v) || math.IsInf(v, 0) || v < 0 {
		return nil
	}
	return &v
}

// count makes a gauge a number of requests.
func count(v *float64) *int {
	if v == nil || *v > maxCount {
		return nil
	}
	n := int(math.Round(*v))
	return &n
}

// first returns the first that is known.
func first(values ...*float64) *float64 {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}

package runner

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"os/exec"
	"strings"
	"time"

	"github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
)

// Response is an answer of the API.
type Response struct {
	Status int
	Header http.Header
	Body   string
}

// JSON decodes the body into v.
func (r Response) JSON(v any) {
	ginkgo.GinkgoHelper()
	Expect(json.Unmarshal([]byte(r.Body), v)).To(Succeed(), r.Body)
}

// Problem is an answer of type application/problem+json.
type Problem struct {
	Type      string             `json:"type"`
	Title     string             `json:"title"`
	Status    int                `json:"status"`
	Code      string             `json:"code"`
	Detail    string             `json:"detail"`
	RequestID string             `json:"request_id"`
	Errors    []messages.Problem `json:"errors"`
}

// Problem expects the answer to be an error in its documented form.
func (r Response) Problem() Problem {
	ginkgo.GinkgoHelper()
	Expect(r.Header.Get("Content-Type")).To(HavePrefix("application/problem+json"), r.Body)
	var p Problem
	r.JSON(&p)
	Expect(p.Status).To(Equal(r.Status))
	Expect(p.Code).NotTo(BeEmpty())
	Expect(p.Title).NotTo(BeEmpty())
	Expect(p.RequestID).NotTo(BeEmpty())
	return p
}

func (h *Hive) try(method, path, body string, header map[string]string) (Response, error) {
	req, err := http.NewRequest(method, "http://hive"+path, bytes.NewBufferString(body))
	if err != nil {
		return Response{}, err
	}
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	for k, v := range header {
		req.Header.Set(k, v)
	}
	client := *h.client
	client.Timeout = 15 * time.Second
	resp, err := client.Do(req)
	if err != nil {
		return Response{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return Response{Status: resp.StatusCode, Header: resp.Header, Body: string(b)}, err
}

// API sends one request on the socket. Headers come in pairs.
func (h *Hive) API(method, path, body string, headers ...string) Response {
	ginkgo.GinkgoHelper()
	m := map[string]string{}
	for i := 0; i+1 < len(headers); i += 2 {
		m[headers[i]] = headers[i+1]
	}
	r, err := h.try(method, path, body, m)
	Expect(err).NotTo(HaveOccurred(), "%s %s", method, path)
	return r
}

// Get is API for a path that must answer 200.
func (h *Hive) Get(path string) Response {
	ginkgo.GinkgoHelper()
	r := h.API(http.MethodGet, path, "")
	Expect(r.Status).To(Equal(http.StatusOK), "GET %s: %s", path, r.Body)
	return r
}

// Do asks for a verb on a worker; body may be empty.
func (h *Hive) Do(verb messages.Verb, name string, body ...string) Response {
	ginkgo.GinkgoHelper()
	return h.API(http.MethodPost, "/v1/workers/"+name+"/"+string(verb), strings.Join(body, ""))
}

// Accept is Do for a verb that hive must take.
func (h *Hive) Accept(verb messages.Verb, name string, body ...string) {
	ginkgo.GinkgoHelper()
	r := h.Do(verb, name, body...)
	Expect(r.Status).To(Equal(http.StatusAccepted), "%s %s: %s", verb, name, r.Body)
}

// Worker is one worker's status.
func (h *Hive) Worker(name string) messages.WorkerStatus {
	ginkgo.GinkgoHelper()
	var w messages.WorkerStatus
	h.Get("/v1/workers/" + name).JSON(&w)
	return w
}

// Workers lists all workers.
func (h *Hive) Workers() []messages.WorkerStatus {
	ginkgo.GinkgoHelper()
	var list struct {
		Workers []messages.WorkerStatus `json:"workers"`
	}
	h.Get("/v1/workers").JSON(&list)
	return list.Workers
}

// WaitFor waits until a worker's status satisfies want, and returns it.
func (h *Hive) WaitFor(name, what string, want func(messages.WorkerStatus) bool) messages.WorkerStatus {
	ginkgo.GinkgoHelper()
	var w messages.WorkerStatus
	Eventually(func(g Gomega) {
		r, err := h.try(http.MethodGet, "/v1/workers/"+name, "", nil)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(r.Status).To(Equal(http.StatusOK), r.Body)
		w = messages.WorkerStatus{}
		g.Expect(json.Unmarshal([]byte(r.Body), &w)).To(Succeed())
		g.Expect(want(w)).To(BeTrue(), "worker %s is %s, attempt %d (%s), and not %s", name, w.State, w.Attempt, w.Reason, what)
	}).WithTimeout(stateWithin).WithPolling(poll).Should(Succeed())
	return w
}

// WaitState waits until a worker is in the state.
func (h *Hive) WaitState(name string, s messages.State) messages.WorkerStatus {
	ginkgo.GinkgoHelper()
	return h.WaitFor(name, s.String(), func(w messages.WorkerStatus) bool { return w.State == s })
}

// WaitAttempt waits until a worker is in the state with this attempt.
func (h *Hive) WaitAttempt(name string, a messages.Attempt, s messages.State) messages.WorkerStatus {
	ginkgo.GinkgoHelper()
	return h.WaitFor(name, fmt.Sprintf("%s with attempt %d", s, a),
		func(w messages.WorkerStatus) bool { return w.Attempt == a && w.State == s })
}

// Result is what a command line left behind.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// CLI runs hive with the arguments in the hive's folder.
func (h *Hive) CLI(args ...string) Result {
	ginkgo.GinkgoHelper()
	var out, errOut bytes.Buffer
	cmd := exec.Command(h.Bin.Hive, args...)
	cmd.Dir, cmd.Env = h.Dir, h.environment()
	cmd.Stdout, cmd.Stderr = &out, &errOut
	Expect(cmd.Start()).To(Succeed())
	timer := time.AfterFunc(endWithin, func() { _ = cmd.Process.Kill() })
	defer timer.Stop()
	_ = cmd.Wait() // the exit code is the answer
	return Result{Stdout: out.String(), Stderr: errOut.String(), Code: cmd.ProcessState.ExitCode()}
}

// Metric is the value of a series, given as it is written: `name{a="b"}`. The
// labels may be some of the series' own. Absent is false when there is none.
func (h *Hive) Metric(name string, labels ...string) (value float64, found bool) {
	ginkgo.GinkgoHelper()
lines:
	for line := range strings.SplitSeq(h.Get("/metrics").Body, "\n") {
		series, number, ok := cutLast(line, " ")
		if !ok || (series != name && !strings.HasPrefix(series, name+"{")) {
			continue
		}
		for _, l := range labels {
			if !strings.Contains(series, l) {
				continue lines
			}
		}
		var v float64
		if _, err := fmt.Sscan(number, &v); err == nil {
			value, found = value+v, true
		}
	}
	return value, found
}

func cutLast(s, sep string) (before, after string, ok bool) {
	if i := strings.LastIndex(s, sep); i >= 0 {
		return s[:i], s[i+len(sep):], true
	}
	return s, "", false
}

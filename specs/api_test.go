package specs

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
	"github.com/rbee-hive/hive/specs/runner"
)

var _ = Describe("the API", func() {
	var h *runner.Hive

	BeforeEach(func() {
		h = up(worker("a", "", "labels: {team: red}"))
		h.WaitState("a", messages.Idle)
	})

	// create declares a worker that sleeps.
	create := func(name string) runner.Response {
		GinkgoHelper()
		return h.API(http.MethodPost, "/v1/workers", fmt.Sprintf(`{"name":%q,"command":["sleep","1000"],"port":"none"}`, name))
	}

	It("creates, shows, changes and forgets a worker", func() {
		r := create("b")
		Expect(r.Status).To(Equal(http.StatusCreated), r.Body)
		b := h.WaitState("b", messages.Idle)
		Expect(b.Source).To(Equal("api"))

		r = h.API(http.MethodPatch, "/v1/workers/b", `{"labels":{"colour":"blue"}}`)
		Expect(r.Status).To(BeNumerically("<", 300), r.Body)
		Eventually(func() map[string]string { return h.Worker("b").Labels }).Should(HaveKeyWithValue("colour", "blue"))
		Expect(h.Worker("b").PID).To(Equal(b.PID), "a label needs no new process")

		r = h.API(http.MethodPatch, "/v1/workers/b", `{"command":["sleep","2000"]}`)
		Expect(r.Status).To(BeNumerically("<", 300), r.Body)
		h.WaitAttempt("b", 2, messages.Idle)

		r = h.API(http.MethodDelete, "/v1/workers/b", "")
		Expect(r.Status).To(BeNumerically("<", 300), r.Body)
		Eventually(func() int { return h.API(http.MethodGet, "/v1/workers/b", "").Status }).Should(Equal(http.StatusNotFound))
		Expect(runner.Exists(b.PID)).To(BeFalse())
		h.WaitEvent("removed", runner.Of(messages.WorkerRemoved, "b"))
	})

	It("lists workers as an object, by state, pool and label", func() {
		create("b")
		h.WaitState("b", messages.Idle)
		names := func(query string) []string {
			var list struct{ Workers []messages.WorkerStatus }
			h.Get("/v1/workers" + query).JSON(&list)
			var out []string
			for _, w := range list.Workers {
				out = append(out, string(w.Name))
			}
			return out
		}
		Expect(names("")).To(ConsistOf("a", "b"))
		Expect(names("?label=team=red")).To(ConsistOf("a"))
		Expect(names("?state=idle")).To(ConsistOf("a", "b"))
		Expect(names("?state=stopped")).To(BeEmpty())
		Expect(names("?pool=cpu")).To(ConsistOf("a", "b"))
		Expect(h.Get("/v1/workers?state=stopped").Body).To(ContainSubstring(`"workers":[]`), "an empty list is a list")
	})

	DescribeTable("refuses with problem+json and a stable code",
		func(method, path, body string, status int) {
			r := h.API(method, path, body)
			Expect(r.Status).To(Equal(status), r.Body)
			p := r.Problem()
			Expect(p.Code).To(MatchRegexp(`^[a-z_]+$`))
			Expect(p.Detail).NotTo(BeEmpty())
		},
		Entry("a route that is not there", "GET", "/v1/nothing", "", 404),
		Entry("a worker that is not there", "GET", "/v1/workers/nobody", "", 404),
		Entry("a verb on a worker that is not there", "POST", "/v1/workers/nobody/stop", "", 404),
		Entry("a verb that is not there", "POST", "/v1/workers/a/explode", "", 404),
		Entry("a method that is not there", "PUT", "/v1/workers/a", "", 405),
		Entry("a pool that is not there", "POST", "/v1/pools/gpu-9/cordon", "", 404),
		Entry("a name that exists", "POST", "/v1/workers", `{"name":"a","command":["sleep","1"]}`, 409),
		Entry("an illegal transition", "POST", "/v1/workers/a/resume", "", 409),
		Entry("an unknown field", "POST", "/v1/workers", `{"name":"c","command":["sleep"],"colour":"red"}`, 422),
		Entry("a bad name", "POST", "/v1/workers", `{"name":"../c","command":["sleep"]}`, 422),
		Entry("a reserved name", "POST", "/v1/workers", `{"name":"spawn","command":["sleep"]}`, 422),
		Entry("no command", "POST", "/v1/workers", `{"name":"c"}`, 422),
		Entry("an unknown field of a verb", "POST", "/v1/workers/a/stop", `{"gracee":"1s"}`, 400),
		Entry("a callback without a token", "POST", "/v1/workers/a/heartbeat", `{"attempt":1}`, 401),
		Entry("an unknown state to list by", "GET", "/v1/workers?state=sleepy", "", 400),
	)

	DescribeTable("refuses a body that is no JSON object",
		func(body string) {
			r := h.API(http.MethodPost, "/v1/workers", body)
			Expect(r.Status).To(BeElementOf(400, 422), r.Body)
			r.Problem()
		},
		Entry("half an object", `{"name":`),
		Entry("a list", `[]`),
		Entry("invalid UTF-8", "{\"name\":\"\xff\xfe\",\"command\":[\"sleep\"]}"),
		Entry("zero bytes", "\x00\x00\x00"),
		Entry("a number too large", `{"name":"c","command":["sleep"],"priority":1e999}`),
		Entry("deep nesting", strings.Repeat("[", 20000)),
	)

	It("reports every problem of a spec at once", func() {
		r := h.API(http.MethodPost, "/v1/workers", `{"name":"c","command":[],"restart":{"policy":"maybe"},"colour":"red"}`)
		Expect(r.Status).To(Equal(422))
		Expect(len(r.Problem().Errors)).To(BeNumerically(">=", 3), r.Body)
	})

	It("refuses a body of 2 MiB with 413", func() {
		body := `{"name":"c","command":["` + strings.Repeat("x", 2<<20) + `"]}`
		Expect(h.API(http.MethodPost, "/v1/workers", body).Status).To(Equal(http.StatusRequestEntityTooLarge))
		Expect(h.Get("/livez").Status).To(Equal(200))
	})

	It("takes a request id or makes one", func() {
		r := h.API(http.MethodGet, "/v1/workers/nobody", "", "X-Request-Id", "my-id-42")
		Expect(r.Header.Get("X-Request-Id")).To(Equal("my-id-42"))
		Expect(r.Problem().RequestID).To(Equal("my-id-42"))
		Expect(h.Get("/v1/workers").Header.Get("X-Request-Id")).NotTo(BeEmpty())
	})

	It("streams events and resumes after Last-Event-ID, without a gap", func() {
		for range 3 {
			h.Accept(messages.VerbStop, "a")
			h.WaitState("a", messages.Stopped)
			h.Accept(messages.VerbStart, "a")
			h.WaitState("a", messages.Idle)
		}
		first := h.EventsAfter("?since=0", 10, nil)
		for i, e := range first {
			Expect(e.Seq).To(BeEquivalentTo(i+1), "numbers have no gaps")
		}
		next := h.EventsAfter("", 3, map[string]string{"Last-Event-ID": fmt.Sprint(first[4].Seq)})
		Expect(next[0].Seq).To(Equal(first[4].Seq + 1))
		only := h.EventsAfter("?since=0&worker=a", 5, nil)
		Expect(slices.ContainsFunc(only, func(e messages.Event) bool { return e.Worker != "a" })).To(BeFalse())
	})

	It("waits for a worker to be ready where that is asked for", func() {
		r := h.API(http.MethodPost, "/v1/workers?wait=ready", fmt.Sprintf(
			`{"name":"slow","command":[%q,"--load","300ms"],"ready":{"http":"/health"}}`, bin.Fake))
		Expect(r.Status).To(Equal(http.StatusCreated), r.Body)
		Expect(h.Worker("slow").State).To(Equal(messages.Idle))
	})

	It("answers livez, readyz and version", func() {
		h.Get("/livez")
		h.Get("/readyz")
		Expect(json.Valid([]byte(h.Get("/version").Body))).To(BeTrue())
	})

	It("keeps its socket to its owner", func() {
		info, err := os.Stat(h.Socket)
		Expect(err).NotTo(HaveOccurred())
		Expect(info.Mode().Perm()).To(BeEquivalentTo(0o600))
	})
})

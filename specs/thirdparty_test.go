package specs

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"

	. "github.com/onsi/ginkgo/v2"
	. "github.com/onsi/gomega"

	"github.com/rbee-hive/hive/messages"
)

// needs skips where a program is not installed, and returns its path.
func needs(program string) string {
	GinkgoHelper()
	path, err := exec.LookPath(program)
	if err != nil {
		Skip(program + " is not installed")
	}
	return path
}

// serves expects the worker's port to answer.
func serves(url string) {
	GinkgoHelper()
	Eventually(func(g Gomega) {
		r, err := http.Get(url)
		g.Expect(err).NotTo(HaveOccurred())
		g.Expect(r.Body.Close()).To(Succeed())
		g.Expect(r.StatusCode).To(Equal(http.StatusOK))
	}).Should(Succeed())
}

var _ = Describe("a program that knows nothing of hive", func() {
	It("python3 -m http.server is ready when it answers, and ends", func() {
		needs("python3")
		h := up("  - name: web\n    command: [python3, -m, http.server, '${PORT}', --bind, '${HOST}']\n    ready: {http: /}")
		serves(h.WaitState("web", messages.Idle).URL + "/")
		h.Accept(messages.VerbStop, "web")
		h.WaitState("web", messages.Stopped)
	})

	It("sleep needs neither port nor readiness", func() {
		h := up("  - {name: s, command: [sleep, '1000'], port: none}")
		w := h.WaitState("s", messages.Idle)
		Expect(w.Port).To(BeZero())
		Expect(w.URL).To(BeEmpty())
	})

	It("a shell script that forks and exits leaves nothing behind", func() {
		h := up("  - name: s\n    command: [sh, -c, 'sleep 1000 & (setsid sleep 1001 &) ; sleep 0.2; exit 3']\n    " + neverAgain)
		h.WaitState("s", messages.Failed)
		Eventually(h.Strays).Should(BeEmpty())
	})

	It("a shell script that closes its environment and changes its session is ended with its children", func() {
		h := up("  - name: s\n    command: [sh, -c, 'setsid env -i sleep 1000 & trap \"\" TERM; while :; do sleep 0.1; done']\n    stop: {grace: 300ms}")
		h.WaitState("s", messages.Idle)
		h.Accept(messages.VerbStop, "s")
		h.WaitState("s", messages.Stopped)
	})

	It("redis-server is ready when its port is open, and saves at its end", func() {
		redis := needs("redis-server")
		h := up(fmt.Sprintf("  - name: redis\n    command: [%s, --port, '${PORT}', --bind, '${HOST}', --dir, DIR, --save, '3600 1']\n    ready: {tcp: true}\n    stop: {grace: 20s}", redis))
		w := h.WaitState("redis", messages.Idle)
		Expect(w.Port).NotTo(BeZero())
		h.Accept(messages.VerbStop, "redis")
		w = h.WaitState("redis", messages.Stopped)
		Expect(w.LastExit.Code).To(HaveValue(BeZero()))
	})

	It("nginx, in the foreground or as a daemon of its own, is ended with all its workers", func() {
		nginx := needs("nginx")
		h := up("")
		port := h.LastPort
		conf := filepath.Join(h.Dir, "nginx.conf")
		Expect(os.WriteFile(conf, fmt.Appendf(nil, `worker_processes 3;
pid %[1]s/nginx.pid;
error_log %[1]s/nginx.log;
events {}
http {
  access_log off;
  client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
  server { listen 127.0.0.1:%[2]d; location / { return 200 "ok"; } }
}
`, h.Dir, port), 0o600)).To(Succeed())
		r := h.API(http.MethodPost, "/v1/workers", fmt.Sprintf(
			`{"name":"nginx","command":[%q,"-c",%q,"-g","daemon off;"],"port":"%d","ready":{"tcp":true},"stop":{"grace":"10s"}}`, nginx, conf, port))
		Expect(r.Status).To(Equal(http.StatusCreated), r.Body)
		serves(h.WaitState("nginx", messages.Idle).URL)
		Expect(len(h.Strays())).To(BeNumerically(">=", 4))
		h.Accept(messages.VerbStop, "nginx")
		h.WaitState("nginx", messages.Stopped)
		Expect(h.Strays()).To(BeEmpty())
	})
})

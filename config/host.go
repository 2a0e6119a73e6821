package config

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/rbee-hive/hive/messages"
)

// HostProblems lists what the workers of c lack on this host: programs,
// directories, users, model files. None of it makes the configuration wrong;
// a worker that lacks something goes to crashloop and the others run. It reads
// the file system and the user database.
func HostProblems(c *Config) messages.Problems {
	s := &sink{file: c.file}
	for _, w := range c.Workers {
		at, ok := c.places[w.Name]
		for _, p := range WorkerHostProblems(w) {
			if ok {
				p.Line, p.Column, p.Path = at.find(p.Path)
			} else {
				p.Path = join("workers["+strconv.Quote(string(w.Name))+"]", p.Path)
			}
			s.at(p.Line, p.Column, p.Path, "%s", p.Message)
		}
	}
	return s.sorted()
}

// WorkerHostProblems is HostProblems for one worker; paths are relative to it.
func WorkerHostProblems(w messages.WorkerSpec) messages.Problems {
	s := &sink{}
	report := func(path, problem string) {
		if problem != "" {
			s.at(0, 0, path, "%s", problem)
		}
	}
	vars := Vars{Port: 1, Host: "127.0.0.1", Attempt: 1}
	_, env, err := Expand(messages.WorkerSpec{Name: w.Name, Env: w.Env, Model: w.Model}, vars)
	if err != nil {
		report("env", err.Error())
		env = w.Env
	}
	program := func(key string, words []string) {
		expanded, err := ExpandList(w, key, words, vars)
		switch {
		case err != nil:
			report(key, err.Error())
		case len(expanded) > 0:
			report(key, missingProgram(expanded[0], w.Dir, env))
		}
	}
	program("command", w.Command)
	program("prepare", w.Prepare)
	program("ready.command", w.Ready.Command)
	if w.Dir != "" {
		info, err := os.Stat(w.Dir)
		switch {
		case err != nil:
			report("dir", fmt.Sprintf("directory %s %s; create it or change dir", w.Dir, reason(err)))
		case !info.IsDir():
			report("dir", fmt.Sprintf("%s is not a directory; change dir", w.Dir))
		}
	}
	if w.User != "" {
		report("user", missingUser(w.User))
	}
	if w.Model != "" && len(w.Prepare) == 0 {
		path := w.Model
		if w.Dir != "" && !filepath.IsAbs(path) {
			path = filepath.Join(w.Dir, path)
		}
		if _, err := os.Stat(path); err != nil {
			report("model", fmt.Sprintf("model %s %s; fetch it, fix the path, or write a prepare command that fetches it", path, reason(err)))
		}
	}
	return s.problems
}

// reason is the end of a sentence about a path.
func reason(err error) string {
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "does not exist"
	case errors.Is(err, fs.ErrPermission):
		return "may not be read by hive"
	}
	var p *fs.PathError
	if errors.As(err, &p) {
		err = p.Err
	}
	return "cannot be read (" + err.Error() + ")"
}

// missingProgram says why name cannot be run. A name without a slash is looked
// for in the worker's own PATH if it sets one, else in hive's; a relative path
// starts at dir, as execve(2) after chdir(2) has it.
func missingProgram(name, dir string, env map[string]string) string {
	if strings.ContainsRune(name, '/') {
		path := name
		if !filepath.IsAbs(path) && dir != "" {
			path = filepath.Join(dir, path)
		}
		if problem := notExecutable(path); problem != "" {
			return fmt.Sprintf("program %s %s; install it or fix the path", path, problem)
		}
		return ""
	}
	search, own := env["PATH"]
	if !own {
		search = os.Getenv("PATH")
	}
	for _, d := range filepath.SplitList(search) {
		if d != "" && notExecutable(filepath.Join(d, name)) == "" {
			return ""
		}
	}
	where := "the PATH of hive"
	if own {
		where = "the PATH in env"
	}
	return fmt.Sprintf("program %s is not in %s; install it or write its full path", name, where)
}

func notExecutable(path string) string {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return reason(err)
	case info.IsDir():
		return "is a directory"
	case info.Mode()&0o111 == 0:
		return "is not executable"
	}
	return ""
}

// missingUser says why a worker cannot run as "user" or "user:group". A number
// needs no entry in the user database.
func missingUser(name string) string {
	name, group, hasGroup := strings.Cut(name, ":")
	uid := name
	if _, err := strconv.ParseUint(name, 10, 32); err != nil {
		u, err := user.Lookup(name)
		if err != nil {
			return fmt.Sprintf("user %s does not exist on this host; create it or change user", name)
		}
		uid = u.Uid
	}
	if hasGroup {
		if _, err := strconv.ParseUint(group, 10, 32); err != nil {
			if _, err := user.LookupGroup(group); err != nil {
				return fmt.Sprintf("group %s does not exist on this host; create it or change user", group)
			}
		}
	}
	if e := os.Geteuid(); e != 0 && uid != strconv.Itoa(e) {
		return fmt.Sprintf("only root can start a worker as %s; run hive as root or remove user", name)
	}
	return ""
}

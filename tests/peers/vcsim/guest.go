package main

// Guests with VMware Tools: GuestProcessManager and GuestFileManager. The simulator has them only for
// machines that are containers.
//
// A played guest has a few programs, files in memory, and two accounts beside root. Tools start a
// program with a line of text, which a shell of the guest reads; the played shell knows words, quotes
// and redirections, and fails at whatever else a shell would act upon. What was started before the
// guest started anew is unknown after it.
//
// A guest whose machine has the extraConfig value hvct.lie says what is not so: see lies.

import (
	"bytes"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"path"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	lieKey   = "hvct.lie"
	tools    = types.VirtualMachineToolsRunningStatusGuestToolsRunning
	guestWeb = "/guestFile" // as vCenter names it
)

// lies are the values of hvct.lie:
//
//	no-code    a program has ended, and its exit code is not told
//	other      the list of processes has another one than was asked for
//	no-tmp     there is no /tmp
//	elsewhere  a temporary folder is said to be /etc
//	short      a file is sent in part, and the connection ends
//	large      a file is said to have an exbibyte
//	slow       a file comes by a byte a second
func (g *inside) lies(vm *simulator.VirtualMachine, how string) bool {
	for _, each := range vm.Config.ExtraConfig {
		if option := each.GetOptionValue(); option.Key == lieKey && option.Value == how {
			return true
		}
	}
	return false
}

type process struct {
	name  string
	user  string
	code  int32
	start time.Time
	ends  time.Time
}

type guestFile struct {
	data  []byte
	owner string
	mode  int64
}

// inside is the inside of one guest.
type inside struct {
	mu        sync.Mutex
	accounts  map[string]string
	files     map[string]*guestFile
	folders   map[string]bool
	processes map[int64]*process
}

var (
	insides sync.Map
	pids    atomic.Int64
	tokens  sync.Map
)

// insideOf is the guest of a machine.
func insideOf(vm types.ManagedObjectReference) *inside {
	found, _ := insides.LoadOrStore(vm, &inside{
		accounts: map[string]string{
			"root": "hvct-root", "hvct-admin": "hvct-admin-secret", "hvct-user": "hvct-user-secret",
		},
		files:     map[string]*guestFile{},
		folders:   map[string]bool{"/tmp": true, "/etc": true},
		processes: map[int64]*process{},
	})
	return found.(*inside)
}

// startAnew is what a start of the guest leaves: its disks are as they were, /tmp is empty.
func (g *inside) startAnew() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.processes = map[int64]*process{}
	g.remove("/tmp", true)
	g.folders["/tmp"] = true
}

func (g *inside) remove(name string, below bool) {
	delete(g.files, name)
	delete(g.folders, name)
	for each := range g.files {
		if below && strings.HasPrefix(each, name+"/") {
			delete(g.files, each)
		}
	}
	for each := range g.folders {
		if below && strings.HasPrefix(each, name+"/") {
			delete(g.folders, each)
		}
	}
}

// managers stands before the simulator's own managers of guests.
type managers struct {
	mo.HostDateTimeSystem // as for machine

	self types.ManagedObjectReference
}

func (m *managers) Reference() types.ManagedObjectReference { return m.self }

var inGuest = map[string]bool{
	"StartProgramInGuest": true, "ListProcessesInGuest": true,
	"CreateTemporaryDirectoryInGuest": true, "DeleteDirectoryInGuest": true, "ListFilesInGuest": true,
	"InitiateFileTransferToGuest": true, "InitiateFileTransferFromGuest": true,
}

// entered is the guest of a machine, if its Tools run and take the account.
func entered(ctx *simulator.Context, ref types.ManagedObjectReference, auth types.BaseGuestAuthentication) (
	*simulator.VirtualMachine, *inside, string, *soap.Fault) {
	vm, ok := ctx.Map.Get(ref).(*simulator.VirtualMachine)
	if !ok {
		return nil, nil, "", simulator.Fault("", &types.ManagedObjectNotFound{Obj: ref})
	}
	var fault types.BaseMethodFault
	ctx.WithLock(vm, func() {
		m := &machine{vm: vm}
		if fault = m.isOff(); fault == nil && vm.Guest.ToolsRunningStatus != string(tools) {
			fault = new(types.GuestOperationsUnavailable)
		}
	})
	if fault != nil {
		return nil, nil, "", simulator.Fault("", fault)
	}
	g := insideOf(vm.Self)
	account, ok := auth.(*types.NamePasswordAuthentication)
	g.mu.Lock()
	defer g.mu.Unlock()
	if !ok || g.accounts[account.Username] == "" || g.accounts[account.Username] != account.Password {
		return nil, nil, "", simulator.Fault("Failed to authenticate with the guest.", new(types.InvalidGuestLogin))
	}
	return vm, g, account.Username, nil
}

// ---- programs -------------------------------------------------------------------------------------

type outcome struct {
	code     int32
	out, err []byte
	lasts    time.Duration
}

// run is what a program of the guest does; false if the guest has no such program.
func (g *inside) run(name, user string, args []string, in []byte) (outcome, bool) {
	switch name {
	case "/bin/echo":
		return outcome{out: []byte(strings.Join(args, " ") + "\n")}, true
	case "/bin/cat":
		return outcome{out: in}, true
	case "/bin/true":
		return outcome{}, true
	case "/bin/false":
		return outcome{code: 1}, true
	case "/bin/sleep":
		seconds, _ := strconv.Atoi(strings.Join(args, ""))
		return outcome{lasts: time.Duration(seconds) * time.Second}, true
	case "/hvct/flood": // so many bytes on both outputs
		size, _ := strconv.Atoi(strings.Join(args, ""))
		return outcome{out: bytes.Repeat([]byte{'o'}, size), err: bytes.Repeat([]byte{'e'}, size)}, true
	case "/usr/sbin/chpasswd":
		return g.chpasswd(user, in), true
	}
	return outcome{}, false
}

func (g *inside) chpasswd(user string, in []byte) outcome {
	if user != "root" && user != "hvct-admin" {
		return outcome{code: 1, err: []byte("chpasswd: Permission denied.\n")}
	}
	for _, line := range strings.Split(strings.TrimSuffix(string(in), "\n"), "\n") {
		name, password, found := strings.Cut(line, ":")
		if _, known := g.accounts[name]; !found || !known {
			return outcome{code: 1, err: []byte("chpasswd: line 1: unknown\n")}
		}
		g.accounts[name] = password
	}
	return outcome{}
}

var (
	errShell = errors.New("the played shell would act upon this")
	errOpen  = errors.New("cannot open a file")
)

// words splits a line as a shell does: words, and where input and output are.
func words(line string) (found []string, redirections map[string]string, err error) {
	redirections = map[string]string{}
	var word strings.Builder
	inside, target := false, ""
	end := func() {
		switch {
		case !inside:
			return
		case target != "":
			redirections[target], target = word.String(), ""
		default:
			found = append(found, word.String())
		}
		word.Reset()
		inside = false
	}
	for at := 0; at < len(line); at++ {
		switch c := line[at]; c {
		case ' ', '\t':
			end()
		case '\'', '"':
			length := strings.IndexByte(line[at+1:], c)
			if length < 0 {
				return nil, nil, errShell
			}
			text := line[at+1 : at+1+length]
			if c == '"' && strings.ContainsAny(text, "$`\\") {
				return nil, nil, errShell
			}
			word.WriteString(text)
			inside = true
			at += length + 1
		case '<', '>':
			number := "0"
			if c == '>' {
				number = "1"
				if word.String() == "2" {
					number = "2"
					word.Reset()
					inside = false
				}
			}
			end()
			target = number
		case '$', '`', ';', '&', '|', '(', ')', '*', '?', '[', ']', '{', '}', '~', '#', '!', '\\', '\n':
			return nil, nil, errShell
		default:
			word.WriteByte(c)
			inside = true
		}
	}
	end()
	return found, redirections, nil
}

func (g *inside) StartProgram(user string, spec *types.GuestProgramSpec) (int64, types.BaseMethodFault) {
	if _, known := g.run(spec.ProgramPath, "", nil, nil); !known {
		return 0, &types.FileNotFound{FileFault: types.FileFault{File: spec.ProgramPath}}
	}
	done, err := outcome{code: 2}, error(nil)
	args, files, err := words(fmt.Sprintf("\"%s\" %s", spec.ProgramPath, spec.Arguments))
	if err == nil {
		in := &guestFile{}
		if name, ok := files["0"]; ok {
			if in, ok = g.files[name]; !ok {
				err = errOpen
			}
		}
		for _, number := range []string{"1", "2"} {
			if name, ok := files[number]; ok && !g.folders[path.Dir(name)] {
				err = errOpen
			}
		}
		if err == nil {
			done, _ = g.run(args[0], user, args[1:], in.data)
			for number, data := range map[string][]byte{"1": done.out, "2": done.err} {
				if name, ok := files[number]; ok {
					g.files[name] = &guestFile{data: data, owner: user, mode: 0o644}
				}
			}
		}
	}
	now := time.Now()
	pid := pids.Add(1) + 1000
	g.processes[pid] = &process{
		name: path.Base(spec.ProgramPath), user: user, code: done.code, start: now, ends: now.Add(done.lasts),
	}
	return pid, nil
}

func (m *managers) StartProgramInGuest(ctx *simulator.Context, r *types.StartProgramInGuest) soap.HasFault {
	body := new(methods.StartProgramInGuestBody)
	_, g, user, fault := entered(ctx, r.Vm, r.Auth)
	if fault != nil {
		body.Fault_ = fault
		return body
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	pid, failed := g.StartProgram(user, r.Spec.GetGuestProgramSpec())
	if failed != nil {
		body.Fault_ = simulator.Fault("", failed)
		return body
	}
	body.Res = &types.StartProgramInGuestResponse{Returnval: pid}
	return body
}

// told is a GuestProcessInfo whose exit code may be zero: the library leaves that out.
type told struct {
	Name      string     `xml:"name"`
	Pid       int64      `xml:"pid"`
	Owner     string     `xml:"owner"`
	CmdLine   string     `xml:"cmdLine"`
	StartTime time.Time  `xml:"startTime"`
	EndTime   *time.Time `xml:"endTime"`
	ExitCode  *int32     `xml:"exitCode"`
}

// ListProcessesInGuestResponse has its name on the wire.
type ListProcessesInGuestResponse struct {
	Returnval []told `xml:"returnval,omitempty"`
}

type listedBody struct {
	Res    *ListProcessesInGuestResponse `xml:"ListProcessesInGuestResponse,omitempty"`
	Fault_ *soap.Fault                   `xml:"http://schemas.xmlsoap.org/soap/envelope/ Fault,omitempty"`
}

func (b *listedBody) Fault() *soap.Fault { return b.Fault_ }

func (m *managers) ListProcessesInGuest(ctx *simulator.Context, r *types.ListProcessesInGuest) soap.HasFault {
	body := new(listedBody)
	vm, g, _, fault := entered(ctx, r.Vm, r.Auth)
	if fault != nil {
		body.Fault_ = fault
		return body
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	body.Res = new(ListProcessesInGuestResponse)
	wanted := r.Pids
	if len(wanted) == 0 {
		for pid := range g.processes {
			wanted = append(wanted, pid)
		}
	}
	for _, pid := range wanted {
		each, ok := g.processes[pid]
		if !ok {
			continue
		}
		row := told{Name: each.name, Pid: pid, Owner: each.user, CmdLine: each.name, StartTime: each.start}
		if !time.Now().Before(each.ends) {
			row.EndTime = &each.ends
			if !g.lies(vm, "no-code") {
				row.ExitCode = &each.code
			}
		}
		if g.lies(vm, "other") {
			row.Pid = 1
		}
		body.Res.Returnval = append(body.Res.Returnval, row)
	}
	return body
}

// ---- files ----------------------------------------------------------------------------------------

func absent(name string) *soap.Fault {
	return simulator.Fault("", &types.FileNotFound{FileFault: types.FileFault{File: name}})
}

func (m *managers) CreateTemporaryDirectoryInGuest(
	ctx *simulator.Context, r *types.CreateTemporaryDirectoryInGuest) soap.HasFault {
	body := new(methods.CreateTemporaryDirectoryInGuestBody)
	vm, g, _, fault := entered(ctx, r.Vm, r.Auth)
	if fault != nil {
		body.Fault_ = fault
		return body
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	where := r.DirectoryPath
	if where == "" {
		where = "/tmp"
	}
	if !g.folders[where] || g.lies(vm, "no-tmp") {
		body.Fault_ = absent(where)
		return body
	}
	name := fmt.Sprintf("%s/%s%d%s", where, r.Prefix, pids.Add(1), r.Suffix)
	if g.lies(vm, "elsewhere") {
		name = "/etc"
	}
	g.folders[name] = true
	body.Res = &types.CreateTemporaryDirectoryInGuestResponse{Returnval: name}
	return body
}

func (m *managers) DeleteDirectoryInGuest(ctx *simulator.Context, r *types.DeleteDirectoryInGuest) soap.HasFault {
	body := new(methods.DeleteDirectoryInGuestBody)
	_, g, _, fault := entered(ctx, r.Vm, r.Auth)
	if fault != nil {
		body.Fault_ = fault
		return body
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.folders[r.DirectoryPath] {
		body.Fault_ = absent(r.DirectoryPath)
		return body
	}
	if !r.Recursive {
		for each := range g.files {
			if path.Dir(each) == r.DirectoryPath {
				body.Fault_ = simulator.Fault("", new(types.DirectoryNotEmpty))
				return body
			}
		}
	}
	g.remove(r.DirectoryPath, true)
	body.Res = new(types.DeleteDirectoryInGuestResponse)
	return body
}

// ListFilesInGuest names what is in a folder without the folder, as Tools do.
func (m *managers) ListFilesInGuest(ctx *simulator.Context, r *types.ListFilesInGuest) soap.HasFault {
	body := new(methods.ListFilesInGuestBody)
	_, g, _, fault := entered(ctx, r.Vm, r.Auth)
	if fault != nil {
		body.Fault_ = fault
		return body
	}
	pattern, err := regexp.Compile(r.MatchPattern)
	if err != nil {
		body.Fault_ = simulator.Fault("", &types.InvalidArgument{InvalidProperty: "matchPattern"})
		return body
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.folders[r.FilePath] {
		body.Fault_ = absent(r.FilePath)
		return body
	}
	body.Res = new(types.ListFilesInGuestResponse)
	add := func(name, kind string, size int) {
		if path.Dir(name) == r.FilePath && pattern.MatchString(path.Base(name)) {
			body.Res.Returnval.Files = append(body.Res.Returnval.Files, types.GuestFileInfo{
				Path: path.Base(name), Type: kind, Size: int64(size), Attributes: new(types.GuestPosixFileAttributes),
			})
		}
	}
	for each := range g.folders {
		add(each, "directory", 4096)
	}
	for each, file := range g.files {
		add(each, "file", len(file.data))
	}
	return body
}

// transfer is what an address stands for.
type transfer struct {
	guest *inside
	vm    *simulator.VirtualMachine
	name  string
	size  int64
	file  guestFile
}

// address is where a file goes or comes from: at the ESXi host if a vCenter is asked.
func address(ctx *simulator.Context, what *transfer) string {
	token := fmt.Sprintf("token-%d", pids.Add(1))
	tokens.Store(token, what)
	where := "*"
	if ctx.Map.IsVPX() {
		where = "localhost:" + esxPort.Load().(string)
	}
	return fmt.Sprintf("https://%s%s?id=%d&token=%s", where, guestWeb, pids.Load(), token)
}

// esxPort is the port of the hosts of a vCenter.
var esxPort atomic.Value

func (m *managers) InitiateFileTransferToGuest(
	ctx *simulator.Context, r *types.InitiateFileTransferToGuest) soap.HasFault {
	body := new(methods.InitiateFileTransferToGuestBody)
	vm, g, user, fault := entered(ctx, r.Vm, r.Auth)
	if fault != nil {
		body.Fault_ = fault
		return body
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if !g.folders[path.Dir(r.GuestFilePath)] {
		body.Fault_ = absent(r.GuestFilePath)
		return body
	}
	if _, there := g.files[r.GuestFilePath]; there && !r.Overwrite {
		body.Fault_ = simulator.Fault("", new(types.FileAlreadyExists))
		return body
	}
	file := guestFile{owner: user, mode: 0o644}
	if posix, ok := r.FileAttributes.(*types.GuestPosixFileAttributes); ok && posix.Permissions != 0 {
		file.mode = posix.Permissions
	}
	what := &transfer{guest: g, vm: vm, name: r.GuestFilePath, size: r.FileSize, file: file}
	body.Res = &types.InitiateFileTransferToGuestResponse{Returnval: address(ctx, what)}
	return body
}

func (m *managers) InitiateFileTransferFromGuest(
	ctx *simulator.Context, r *types.InitiateFileTransferFromGuest) soap.HasFault {
	body := new(methods.InitiateFileTransferFromGuestBody)
	vm, g, _, fault := entered(ctx, r.Vm, r.Auth)
	if fault != nil {
		body.Fault_ = fault
		return body
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	file, ok := g.files[r.GuestFilePath]
	if !ok {
		body.Fault_ = absent(r.GuestFilePath)
		return body
	}
	what := &transfer{guest: g, vm: vm, name: r.GuestFilePath, size: -1, file: *file}
	size := int64(len(file.data))
	if g.lies(vm, "large") {
		size = 1 << 60
	}
	body.Res = &types.InitiateFileTransferFromGuestResponse{Returnval: types.FileTransferInformation{
		Attributes: &types.GuestPosixFileAttributes{Permissions: file.mode}, Size: size, Url: address(ctx, what),
	}}
	return body
}

// serveGuest is the web space of guests' files.
func serveGuest(w http.ResponseWriter, r *http.Request) {
	found, ok := tokens.Load(r.URL.Query().Get("token"))
	if !ok || r.Header.Get("Cookie") != "" { // the address is the permission, and no session comes here
		http.Error(w, "no such transfer", http.StatusForbidden)
		return
	}
	what := found.(*transfer)
	switch {
	case r.Method == http.MethodPut && what.size >= 0:
		data, err := io.ReadAll(r.Body)
		if err != nil || int64(len(data)) != what.size {
			http.Error(w, "another size than was said", http.StatusInternalServerError)
			return
		}
		file := what.file
		file.data = data
		what.guest.mu.Lock()
		defer what.guest.mu.Unlock()
		if !what.guest.folders[path.Dir(what.name)] {
			http.Error(w, "no such folder", http.StatusInternalServerError)
			return
		}
		what.guest.files[what.name] = &file
	case r.Method == http.MethodGet && what.size < 0:
		data := what.file.data
		w.Header().Set("Content-Length", strconv.Itoa(len(data)))
		switch {
		case what.guest.lies(what.vm, "short"):
			if connection, _, err := w.(http.Hijacker).Hijack(); err == nil {
				fmt.Fprintf(connection, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(data), data[:len(data)/2])
				_ = connection.Close()
			}
		case what.guest.lies(what.vm, "slow"):
			for at := range data {
				_, _ = w.Write(data[at : at+1])
				w.(http.Flusher).Flush()
				time.Sleep(time.Second)
			}
		default:
			_, _ = w.Write(data)
		}
	default:
		http.Error(w, "not here", http.StatusMethodNotAllowed)
	}
}

// serveGuests tells the tests what is in the guests: the paths of all files and folders but /tmp and
// /etc, with the mode of each file.
func serveGuests(w http.ResponseWriter, _ *http.Request) {
	insides.Range(func(_, value any) bool {
		g := value.(*inside)
		g.mu.Lock()
		defer g.mu.Unlock()
		for each, file := range g.files {
			fmt.Fprintf(w, "%s %o\n", each, file.mode)
		}
		for each := range g.folders {
			if each != "/tmp" && each != "/etc" {
				fmt.Fprintln(w, each)
			}
		}
		return true
	})
}

// certified gives each host the certificate of the server, which plays them all.
func certified(registry *simulator.Registry, der []byte) {
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	for _, each := range registry.All("HostSystem") {
		host := each.(*simulator.HostSystem)
		config := *host.Config
		config.Certificate = text
		host.Config = &config
	}
}

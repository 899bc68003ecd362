//! Processes that never outlive their test, ports that nobody else uses, and waiting.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Debug;
use std::fs;
use std::net::{TcpListener, UdpSocket};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, ExitStatus, Output, Stdio};
use std::sync::{Condvar, LazyLock, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The program under test.
pub(crate) const TIDINGS: &str = env!("CARGO_BIN_EXE_tidings");

/// How long anything may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Between two looks at a condition.
const GLANCE: Duration = Duration::from_millis(15);

/// Looks until there is something to be returned.
///
/// # Panics
/// With what the last look saw, when the time is up.
#[track_caller]
pub(crate) fn wait_for<T>(what: &str, mut look: impl FnMut() -> Result<T, String>) -> T {
    let began = Instant::now();
    loop {
        let looked = Instant::now();
        match look() {
            Ok(found) => return found,
            Err(seen) if began.elapsed() > PATIENCE => {
                panic!("waited {} s for {what}: {seen}", PATIENCE.as_secs())
            }
            // A costly look is not taken all the time.
            Err(_) => std::thread::sleep(GLANCE.max(looked.elapsed())),
        }
    }
}

/// Looks until the condition holds.
#[track_caller]
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(what, || if holds() { Ok(()) } else { Err("it is not so".to_owned()) });
}

/// Looks until two things are equal.
#[track_caller]
pub(crate) fn wait_equal<T: PartialEq + Debug>(what: &str, wanted: &T, mut look: impl FnMut() -> T) {
    wait_for(what, || {
        let seen = look();
        if seen == *wanted { Ok(()) } else { Err(format!("{seen:?} is not {wanted:?}")) }
    });
}

/// At most this many clusters at once, so that a small machine can carry them.
const CLUSTERS: usize = 2;
static RUNNING: (Mutex<usize>, Condvar) = (Mutex::new(0), Condvar::new());

/// The right to run a cluster.
#[derive(Debug)]
pub(crate) struct Permit(());

impl Permit {
    pub(crate) fn take() -> Self {
        let (running, freed) = &RUNNING;
        let mut running = running.lock().unwrap_or_else(|e| e.into_inner());
        while *running >= CLUSTERS {
            running = freed.wait(running).unwrap_or_else(|e| e.into_inner());
        }
        *running += 1;
        Self(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let (running, freed) = &RUNNING;
        *running.lock().unwrap_or_else(|e| e.into_inner()) -= 1;
        freed.notify_one();
    }
}

/// A port that is free for TCP and UDP, and below those that the system gives to clients: a node
/// that is down for a while finds it free when it returns.
pub(crate) fn free_port() -> u16 {
    free_ports(&[0])
}

/// A port such that it and those at these offsets are free.
pub(crate) fn free_ports(offsets: &[u16]) -> u16 {
    static GIVEN: LazyLock<Mutex<BTreeSet<u16>>> = LazyLock::new(Mutex::default);
    let mut given = GIVEN.lock().unwrap_or_else(|e| e.into_inner());
    let free = |port: u16| {
        let address = ("127.0.0.1", port);
        TcpListener::bind(address).is_ok() && UdpSocket::bind(address).is_ok()
    };
    for _ in 0..10_000 {
        let base = rand::random_range(10_000..32_000);
        let mut ports = offsets.iter().map(|offset| base + offset);
        if ports.clone().all(|port| !given.contains(&port) && free(port)) {
            given.extend(&mut ports);
            return base;
        }
    }
    panic!("no free ports");
}

/// A child that is killed with its owner, and stops by itself should the test be killed.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    /// Held open; see `--exit-with-stdin`.
    stdin: Option<ChildStdin>,
}

impl Running {
    /// Starts a program. Settings do not reach it from outside.
    #[track_caller]
    pub(crate) fn start(command: &mut Command) -> Self {
        clean(command);
        let mut child = command.stdin(Stdio::piped()).spawn().expect("the program can be started");
        Self { stdin: child.stdin.take(), child }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    #[track_caller]
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(pid(self.child.id()), signal).expect("the process is there");
    }

    pub(crate) fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child can be asked for")
    }

    /// Waits for its end.
    #[track_caller]
    pub(crate) fn wait(&mut self) -> ExitStatus {
        wait_for("a process to end", || self.ended().ok_or_else(|| "it runs".to_owned()))
    }

    /// Ends its standard input.
    pub(crate) fn close_stdin(&mut self) {
        self.stdin = None;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid(id: u32) -> Pid {
    Pid::from_raw(id.cast_signed()).expect("process ids are not zero")
}

/// Signals a process that somebody else started.
pub(crate) fn signal(id: u32, signal: Signal) {
    let _ = kill_process(pid(id), signal);
}

/// Whether there is such a process that runs; one that has ended and waits to be asked for does not.
pub(crate) fn is_alive(id: u32) -> bool {
    state(Path::new(&format!("/proc/{id}"))).is_some_and(|state| state != b'Z' && state != b'X')
}

/// Whether every thread of a process has been stopped: they stop one by one.
pub(crate) fn is_frozen(id: u32) -> bool {
    let threads = fs::read_dir(format!("/proc/{id}/task")).expect("the process is there");
    threads.flatten().all(|thread| state(&thread.path()) == Some(b'T'))
}

/// The state of a process or thread, as `ps` has it.
fn state(proc: &Path) -> Option<u8> {
    let stat = fs::read_to_string(proc.join("stat")).ok()?;
    stat.rsplit_once(") ").map(|(_, rest)| rest.as_bytes()[0])
}

fn clean(command: &mut Command) {
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("TIDINGS_") {
            command.env_remove(name);
        }
    }
}

/// Runs the program to its end.
pub(crate) fn tidings<S: AsRef<OsStr>>(arguments: impl IntoIterator<Item = S>) -> Outcome {
    let mut command = Command::new(TIDINGS);
    clean(&mut command);
    outcome(command.args(arguments))
}

/// Runs a command to its end; if it runs on and on, that is a failure of the test.
#[track_caller]
pub(crate) fn outcome(command: &mut Command) -> Outcome {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
    let child = child.expect("the program can be started");
    let id = child.id();
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || tell.send(child.wait_with_output()));
    match told.recv_timeout(PATIENCE) {
        Ok(output) => output.expect("the program ran").into(),
        Err(_) => {
            signal(id, Signal::KILL);
            panic!("{command:?} did not end in {} s", PATIENCE.as_secs());
        }
    }
}

/// How a command ended, and what it said.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) code: Option<i32>,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Outcome {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("output is text");
        Self { code: output.status.code(), out: text(output.stdout), err: text(output.stderr) }
    }
}

impl Outcome {
    /// What it printed.
    #[track_caller]
    pub(crate) fn done(self) -> String {
        assert_eq!(self.code, Some(0), "{self:?}");
        self.out
    }

    /// What it printed, as JSON.
    #[track_caller]
    pub(crate) fn json(self) -> serde_json::Value {
        let out = self.done();
        serde_json::from_str(&out).unwrap_or_else(|error| panic!("{error}: {out}"))
    }

    /// What it said on standard error, and nothing else.
    #[track_caller]
    pub(crate) fn refused(self, code: i32) -> String {
        assert_eq!(self.code, Some(code), "{self:?}");
        assert_eq!(self.out, "", "{self:?}");
        self.err
    }
}

/// Copies a directory, without sockets.
pub(crate) fn copy_dir(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let (kind, target) = (entry.file_type().unwrap(), to.join(entry.file_name()));
        if kind.is_dir() {
            copy_dir(&entry.path(), &target);
        } else if kind.is_file() {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}

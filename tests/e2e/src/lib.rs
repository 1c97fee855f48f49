//! Runs `asymflow` as a user does: in a folder of its own, with a time limit, and nothing left behind.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// Longest that any command of a test may take.
const LIMIT: Duration = Duration::from_secs(120);
const POLL: Duration = Duration::from_millis(5);
/// Environment variable that marks the processes of one sandbox.
const MARK: &str = "ASYMFLOW_E2E";

/// The folder with the three programs, built as this test was; or that of `ASYMFLOW_BIN_DIR`.
///
/// # Panics
/// If they cannot be built.
pub fn programs() -> &'static Path {
    static FOLDER: OnceLock<PathBuf> = OnceLock::new();
    FOLDER.get_or_init(|| {
        if let Some(folder) = std::env::var_os("ASYMFLOW_BIN_DIR") {
            return PathBuf::from(folder);
        }
        let test = std::env::current_exe().expect("a test has a path");
        let folder = test.ancestors().nth(2).expect("tests lie in PROFILE/deps").to_path_buf();
        let mut build = Command::new(env!("CARGO"));
        // With the tests, so that dependencies have the features they have in `cargo test --workspace`: built once.
        build.args(["build", "--quiet", "--workspace", "--bins", "--tests"]);
        if folder.ends_with("release") {
            build.arg("--release");
        }
        build.arg("--target-dir").arg(folder.parent().expect("a profile lies in the target folder"));
        build.current_dir(env!("CARGO_MANIFEST_DIR"));
        assert!(build.status().expect("cargo is there").success(), "the programs do not build");
        folder
    })
}

/// A folder for the files of one test; its processes are found by it.
pub struct Sandbox {
    folder: TempDir,
}

/// A command that has ended.
#[derive(Debug)]
pub struct Finished {
    pub status: ExitStatus,
    pub stdout: String,
    pub stderr: String,
}

/// A command that runs.
pub struct Running {
    child: Child,
    output: [PathBuf; 2],
}

impl Sandbox {
    /// An empty folder.
    ///
    /// # Panics
    /// If it cannot be made.
    #[allow(clippy::new_without_default)]
    pub fn new() -> Self {
        Sandbox { folder: tempfile::tempdir().expect("a temporary folder") }
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Writes a file.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        fs::write(self.path(name), text).expect("the folder can be written");
    }

    /// Runs `asymflow` to its end.
    ///
    /// # Panics
    /// If it takes longer than the limit.
    pub fn run(&self, arguments: &[&str]) -> Finished {
        self.start(arguments).wait()
    }

    /// Starts `asymflow`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start(&self, arguments: &[&str]) -> Running {
        self.start_program("asymflow", arguments)
    }

    /// Starts one of the programs.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn start_program(&self, name: &str, arguments: &[&str]) -> Running {
        static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(0);
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let output = ["out", "err"].map(|end| self.path(&format!(".{name}-{number}.{end}")));
        let [stdout, stderr] = output.each_ref().map(|path| File::create(path).expect("writable"));
        let child = Command::new(programs().join(name))
            .args(arguments)
            .current_dir(self.folder.path())
            .env(MARK, self.folder.path())
            .env("TMPDIR", self.folder.path())
            .stdin(Stdio::null())
            .stdout(stdout)
            .stderr(stderr)
            .spawn()
            .expect("the program is built");
        Running { child, output }
    }

    /// Process numbers of everything of this test that still runs.
    ///
    /// # Panics
    /// If the system does not list processes.
    pub fn processes(&self) -> Vec<u32> {
        let mark = format!("{MARK}={}", self.folder.path().display());
        let marked = |pid: &u32| {
            let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
            environment.split(|&byte| byte == 0).any(|entry| entry == mark.as_bytes())
        };
        let entries = fs::read_dir("/proc").expect("Linux has /proc").flatten();
        let numbers = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        numbers.filter(marked).collect()
    }

    /// Waits until no process of this test is left.
    ///
    /// # Panics
    /// If one stays.
    pub fn assert_no_process_left(&self) {
        let until = Instant::now() + Duration::from_secs(20);
        while !self.processes().is_empty() {
            assert!(Instant::now() < until, "still there: {:?}", self.processes());
            std::thread::sleep(POLL);
        }
    }
}

impl Running {
    /// Waits for the end.
    ///
    /// # Panics
    /// If it takes longer than the limit.
    pub fn wait(mut self) -> Finished {
        let until = Instant::now() + LIMIT;
        let status = loop {
            match self.child.try_wait().expect("a child can be waited for") {
                Some(status) => break status,
                None if Instant::now() > until => {
                    self.child.kill().expect("a child can be killed");
                    panic!("no end after {LIMIT:?}:\n{}", self.stderr());
                }
                None => std::thread::sleep(POLL),
            }
        };
        let stdout = fs::read_to_string(&self.output[0]).expect("text");
        Finished { status, stdout, stderr: self.stderr() }
    }

    /// What it has said on standard error so far.
    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.output[1]).unwrap_or_default()).into_owned()
    }

    /// Waits until `holds`, and returns whether it ever did before the command ended.
    ///
    /// # Panics
    /// If it takes longer than the limit.
    pub fn wait_until(&mut self, mut holds: impl FnMut(&Self) -> bool) -> bool {
        let until = Instant::now() + LIMIT;
        while !holds(self) {
            if self.child.try_wait().expect("a child can be waited for").is_some() {
                return false;
            }
            assert!(Instant::now() < until, "waited in vain for {LIMIT:?}:\n{}", self.stderr());
            std::thread::sleep(Duration::from_millis(1));
        }
        true
    }

    /// Sends a signal; to a process that has ended, nothing.
    pub fn signal(&self, signal: Signal) {
        // It may have ended just now.
        let _ = kill_process(Pid::from_child(&self.child), signal);
    }
}

impl Finished {
    /// Exit status; -1 for a signal.
    pub fn code(&self) -> i32 {
        self.status.code().unwrap_or(-1)
    }

    /// This, after checking that it went well.
    ///
    /// # Panics
    /// If it did not.
    pub fn good(self) -> Self {
        assert!(self.status.success(), "{}: {}", self.status, self.stderr);
        self
    }

    /// The one JSON object on standard output.
    ///
    /// # Panics
    /// If there is anything else.
    pub fn json(&self) -> Value {
        assert_eq!(self.stdout.matches('\n').count(), 1, "more than one line: {}", self.stdout);
        serde_json::from_str(&self.stdout).expect("one JSON object")
    }
}

/// A RUN.toml that trains in about a second: 192 synthetic images, `cnn-small`, 3 epochs of 6 steps.
pub fn tiny(flow: &str) -> String {
    let privacy = match flow {
        "delta" | "dp-input" => "epsilon = 8.0\nallow = [\"labels\"]",
        "plain" => "allow = [\"inputs\", \"labels\"]",
        _ => "",
    };
    let shape = if flow == "delta" { "rank = 4\nshape = \"pooled:4\"" } else { "" };
    format!(
        "[model]\narchitecture = \"cnn-small\"\n\n\
         [data]\nformat = \"synthetic\"\ntrain_records = 192\ntest_records = 64\naugment = [\"flip\", \"crop2\"]\n\n\
         [flow]\nkind = \"{flow}\"\n{shape}\n\n\
         [privacy]\n{privacy}\n\n\
         [train]\nepochs = 3\nbatch_size = 32\nlearning_rate = 0.05\nseed = 3\n\n\
         [accelerator]\nthreads = 1\n"
    )
}

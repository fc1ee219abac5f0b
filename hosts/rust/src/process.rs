//! The sidecar's process: started in a group of its own, killed with all of that group.
//!
//! Knows nothing of what is said over its pipes.

use std::collections::VecDeque;
use std::future::{poll_fn, Future};
use std::io;
use std::pin::pin;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::AsyncRead;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::lines::{Line, Lines};

const STDERR_LINES: usize = 50; // What is kept of stderr,
const STDERR_LINE_BYTES: usize = 4096; // and of each of its lines.
const LEAVE: Duration = Duration::from_secs(10); // From the end of stdout to killing what does not leave.
const KILL: Duration = Duration::from_secs(5); // A process in an uninterruptible system call does not die at once.
const LAST_WORDS: Duration = Duration::from_secs(1); // Another process may hold stderr open: its end is a bonus.

/// Called with each line of stderr.
pub(crate) type OnStderr = Arc<dyn Fn(&str) + Send + Sync>;

/// A child process, shared by whoever waits for it and whoever may kill it.
pub(crate) struct Process {
    child: Mutex<Child>,
    stderr: Arc<Mutex<VecDeque<String>>>,
    stderr_ended: watch::Receiver<bool>,
}

impl Process {
    /// Start a process with three pipes; its stderr is drained from now on.
    pub(crate) fn start(
        mut command: std::process::Command,
        on_stderr: Option<OnStderr>,
    ) -> io::Result<(Process, ChildStdin, ChildStdout)> {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        own_group(&mut command);
        let mut child = Command::from(command).kill_on_drop(true).spawn()?;
        let (Some(stdin), Some(stdout), Some(errors)) = (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(io::Error::new(io::ErrorKind::BrokenPipe, "a child process came without its pipes"));
        };
        let stderr = Arc::default();
        let (ended, stderr_ended) = watch::channel(false);
        tokio::spawn(drain(errors, Arc::clone(&stderr), on_stderr, ended));
        Ok((Process { child: Mutex::new(child), stderr, stderr_ended }, stdin, stdout))
    }

    /// The process id; None once the process has ended and was waited for.
    pub(crate) fn pid(&self) -> Option<u32> {
        lock(&self.child).id()
    }

    /// Kill the process and every process of its group, at once.
    ///
    /// Under the lock nobody can reap it, so that its number is still its own.
    pub(crate) fn kill(&self) {
        let mut child = lock(&self.child);
        if let Some(pid) = child.id() {
            kill_group(pid, &mut child);
        }
    }

    /// Wait until the process has left, make it where it does not, and return its status.
    pub(crate) async fn end(&self) -> Option<ExitStatus> {
        let status = match timeout(LEAVE, self.wait()).await {
            Ok(status) => status,
            Err(_) => {
                self.kill();
                timeout(KILL, self.wait()).await.ok().flatten()
            }
        };
        let mut ended = self.stderr_ended.clone();
        let _ = timeout(LAST_WORDS, ended.changed()).await;
        status
    }

    /// The last lines of stderr.
    pub(crate) fn stderr_tail(&self) -> Vec<String> {
        lock(&self.stderr).iter().cloned().collect()
    }

    async fn wait(&self) -> Option<ExitStatus> {
        let status = poll_fn(|cx| {
            let mut child = lock(&self.child);
            let waiting = pin!(child.wait());
            waiting.poll(cx)
        });
        status.await.ok()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing panics under these locks, so what is behind them is whole.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn drain(
    stderr: impl AsyncRead + Unpin,
    tail: Arc<Mutex<VecDeque<String>>>,
    on_line: Option<OnStderr>,
    ended: watch::Sender<bool>,
) {
    let mut lines = Lines::new(stderr, STDERR_LINE_BYTES);
    while let Ok(Some(Line::Whole(line) | Line::TooLong(line, _) | Line::Torn(line))) = lines.next().await {
        let line = String::from_utf8_lossy(&line).into_owned();
        if let Some(on_line) = &on_line {
            on_line(&line);
        }
        let mut tail = lock(&tail);
        if tail.len() == STDERR_LINES {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    let _ = ended.send(true);
}

/// A Ctrl-C on the host's terminal does not reach the sidecar, and all that it starts can be killed with it.
#[cfg(unix)]
fn own_group(command: &mut std::process::Command) {
    use std::os::unix::process::CommandExt;
    command.process_group(0);
}

#[cfg(unix)]
#[allow(unsafe_code)] // The standard library cannot signal a group.
fn kill_group(pid: u32, _child: &mut Child) {
    if let Ok(group) = libc::pid_t::try_from(pid) {
        // SAFETY: killpg takes two integers and touches no memory. The group is that of a child which is not reaped.
        unsafe { libc::killpg(group, libc::SIGKILL) };
    }
}

/// A Ctrl-C in the host's console does not reach the sidecar.
#[cfg(windows)]
fn own_group(command: &mut std::process::Command) {
    use std::os::windows::process::CommandExt;
    const CREATE_NEW_PROCESS_GROUP: u32 = 0x0000_0200;
    command.creation_flags(CREATE_NEW_PROCESS_GROUP);
}

/// There is no group to kill: with the sidecar dies its job object, and with that all that it started.
#[cfg(windows)]
fn kill_group(_pid: u32, child: &mut Child) {
    let _ = child.start_kill(); // It fails only where the process has ended already.
}

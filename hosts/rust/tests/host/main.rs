//! A host and its sidecar, over real pipes: the scripted sidecar of these tests, and the real one.

#![cfg(unix)] // Signals and named pipes; the unit tests run everywhere.

mod client;
mod real;
mod replayed;
mod supervisor;
mod virtual_time;
mod weights;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use mlzoo::{Chat, Launch, Message};
use tokio::sync::mpsc;

const PATIENCE: Duration = Duration::from_secs(300); // Only ever waited for by a test that fails.
const STORY: &str = "The sea is wide and deep and nobody has ever seen all of it";

/// Give a test an end, whatever happens.
async fn soon<T>(test: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, test).await.expect("this ends")
}

/// A directory of a test's own, gone with it.
struct Place(PathBuf);

impl Place {
    fn new() -> Place {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("host-{}-{}", std::process::id(), NUMBER.fetch_add(1, Ordering::Relaxed));
        let path = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
        std::fs::create_dir_all(&path).expect("a directory for tests");
        Place(path)
    }

    fn log(&self) -> PathBuf {
        self.0.join("log")
    }

    /// What a file of the scripted sidecar's log says.
    fn read(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.log().join(name)).ok()
    }

    /// A scripted sidecar that keeps its log here.
    fn scripted(&self) -> Launch {
        Launch::new(env!("CARGO_BIN_EXE_scripted-sidecar")).log(self.log())
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// What asks a scripted sidecar for the story, and for a fault.
fn story(fault: &str) -> Chat {
    let mut chat = Chat::new([Message::user(STORY)]);
    chat.options.model = Some(fault.into());
    chat
}

fn keyed(fault: &str, key: &str) -> Chat {
    let mut chat = story(fault);
    chat.options.key = Some(key.into());
    chat
}

/// SIGKILL for one process, not its group: what a crash or an impatient person does.
fn kill_9(pid: Option<u32>) {
    let pid = pid.expect("it runs").to_string();
    assert!(Command::new("kill").args(["-9", &pid]).status().expect("there is a kill").success());
}

/// Ends when nobody holds the sidecar's stderr open any more: it, and all that it started, are gone.
struct AllGone(mpsc::UnboundedReceiver<String>);

impl AllGone {
    /// See the launch through; it must not be kept.
    fn watch(launch: Launch) -> (Launch, AllGone) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let launch = launch.on_stderr(move |line| {
            let _ = sender.send(line.to_owned());
        });
        (launch, AllGone(receiver))
    }

    /// Wait, and return what was said on stderr.
    async fn wait(mut self) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(line) = self.0.recv().await {
            lines.push(line);
        }
        lines
    }
}

//! How a sidecar is started.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use crate::client::{Client, Connection};
use crate::error::Error;
use crate::process::{OnStderr, Process};

/// The command line of a sidecar, and what to do with what it says aside.
///
/// It may be spawned any number of times, one after the other.
#[derive(Clone)]
pub struct Launch {
    program: OsString,
    part: Part,
    arguments: Vec<OsString>,
    variables: Vec<(OsString, OsString)>,
    directory: Option<PathBuf>,
    connection: Connection,
    on_stderr: Option<OnStderr>,
}

/// Which command plays the sidecar.
#[derive(Clone)]
enum Part {
    Serve,
    Replay(PathBuf),
}

impl Launch {
    /// A sidecar of this program, usually `mlzoo`, found as the operating system finds programs:
    /// `PROGRAM serve --parent-pid N ...`.
    pub fn new(program: impl AsRef<OsStr>) -> Self {
        Launch::of(program.as_ref(), Part::Serve)
    }

    /// A recording that plays the sidecar's part in the tests of a host, without any model:
    /// `PROGRAM replay play RECORDING ...`.
    ///
    /// It answers what was recorded to what was recorded, in that order, and nothing else. What [`crate::Client::shutdown`]
    /// returns is a success only where all of it was used.
    pub fn replay(program: impl AsRef<OsStr>, recording: impl AsRef<Path>) -> Self {
        Launch::of(program.as_ref(), Part::Replay(recording.as_ref().into()))
    }

    fn of(program: &OsStr, part: Part) -> Self {
        Launch {
            program: program.into(),
            part,
            arguments: Vec::new(),
            variables: Vec::new(),
            directory: None,
            connection: Connection::default(),
            on_stderr: None,
        }
    }

    /// The directory of the event log. Without it the sidecar takes one of its own, which may be another each time.
    pub fn log(self, directory: impl AsRef<Path>) -> Self {
        self.argument("--log").argument(directory.as_ref())
    }

    /// One more argument, such as a setting: `limits.max_running=8`.
    pub fn argument(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().into());
        self
    }

    /// One more environment variable.
    pub fn variable(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.variables.push((name.as_ref().into(), value.as_ref().into()));
        self
    }

    /// The working directory.
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().into());
        self
    }

    /// How the connection is served.
    pub fn connection(mut self, connection: Connection) -> Self {
        self.connection = connection;
        self
    }

    /// See each line of stderr, at most its first 4096 bytes. While the callback runs, no more is read.
    pub fn on_stderr(mut self, callback: impl Fn(&str) + Send + Sync + 'static) -> Self {
        self.on_stderr = Some(Arc::new(callback));
        self
    }

    /// Start the sidecar. Needs a tokio runtime.
    pub fn spawn(&self) -> Result<Client, Error> {
        let (process, stdin, stdout) =
            Process::start(self.command(), self.on_stderr.clone()).map_err(|error| Error::Spawn(Arc::new(error)))?;
        Ok(self.connection.clone().serve(stdout, stdin, Some(process)))
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        match &self.part {
            Part::Serve => command.args(["serve", "--parent-pid"]).arg(std::process::id().to_string()),
            Part::Replay(recording) => command.args(["replay", "play"]).arg(recording),
        };
        command.args(&self.arguments).envs(self.variables.iter().map(|(name, value)| (name, value)));
        if let Some(directory) = &self.directory {
            command.current_dir(directory);
        }
        command
    }
}

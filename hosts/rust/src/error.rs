//! What can go wrong between a host and its sidecar, and whose fault it is.

use std::fmt;
use std::io;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

const SHOWN_LINES: usize = 10; // Of stderr, in a message; the field has more.

/// What can go wrong. Errors are values that may be cloned: one death ends many calls.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The host's fault or the machine's: the program could not be started.
    Spawn(Arc<io::Error>),
    /// The sidecar answered with an error; whose fault that is, its [`Kind`] says.
    Rpc(Box<RpcError>),
    /// The sidecar's fault or the machine's: it is gone, and a call has no answer.
    Died(Arc<Death>),
    /// The sidecar's fault: one answer is not what version 1 of the protocol allows, such as a stream with a gap.
    Protocol(Arc<str>),
    /// The host's fault: the params have no form that the protocol takes, and were not sent.
    Params(Arc<str>),
    /// The machine's fault, or that of how the sidecar was started: it failed again and again, last with this error,
    /// and is not restarted any more.
    GaveUp(Arc<Error>),
    /// The host's own wish: it has closed this client.
    Closed,
}

impl Error {
    /// The sidecar's error, where it answered with one.
    pub fn rpc(&self) -> Option<&RpcError> {
        match self {
            Error::Rpc(error) => Some(error),
            _ => None,
        }
    }

    /// Whether the same call may succeed later without anybody doing anything.
    pub fn retryable(&self) -> bool {
        match self {
            Error::Rpc(error) => error.retryable(),
            Error::Died(_) => true,
            Error::Spawn(_) | Error::Protocol(_) | Error::Params(_) | Error::GaveUp(_) | Error::Closed => false,
        }
    }

    /// The text that came before the error, where there was some.
    pub fn partial(&self) -> Option<&str> {
        self.rpc().and_then(RpcError::partial)
    }

    pub(crate) fn protocol(message: impl Into<String>) -> Self {
        Error::Protocol(message.into().into())
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Spawn(error) => write!(f, "the sidecar could not be started: {error}"),
            Error::Rpc(error) => error.fmt(f),
            Error::Died(death) => death.fmt(f),
            Error::Protocol(message) => write!(f, "the sidecar does not keep to the protocol: {message}"),
            Error::Params(message) => write!(f, "these params cannot be sent: {message}"),
            Error::GaveUp(last) => write!(f, "the sidecar is not restarted any more; last, {last}"),
            Error::Closed => f.write_str("this client is closed"),
        }
    }
}

impl std::error::Error for Error {}

/// How a sidecar ended.
#[derive(Clone, Debug, Default)]
#[non_exhaustive]
pub struct Death {
    /// The exit status; None where there was no process of ours, or not even SIGKILL ended it in time.
    pub status: Option<ExitStatus>,
    /// What it wrote that is no message of the protocol, where it was killed for that.
    pub violation: Option<String>,
    /// The last lines that it wrote to stderr.
    pub stderr: Vec<String>,
}

impl fmt::Display for Death {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.violation, self.status) {
            (Some(violation), _) => write!(f, "the sidecar does not keep to the protocol: {violation}")?,
            (None, Some(status)) => write!(f, "the sidecar is gone ({status})")?,
            (None, None) => f.write_str("the connection to the sidecar has ended")?,
        }
        let first = self.stderr.len().saturating_sub(SHOWN_LINES);
        self.stderr[first..].iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// An error that the sidecar answered with.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[non_exhaustive]
pub struct RpcError {
    /// The number on the wire.
    pub code: i64,
    /// What was wrong and what to do.
    pub message: String,
    /// More, for programs.
    #[serde(default)]
    pub data: Value,
}

impl RpcError {
    /// What the code means.
    pub fn kind(&self) -> Kind {
        Kind::of(self.code)
    }

    /// Whether the same request may succeed later without anybody doing anything.
    pub fn retryable(&self) -> bool {
        self.data["retryable"].as_bool().unwrap_or(false)
    }

    /// The text that came before the error, where there was some.
    pub fn partial(&self) -> Option<&str> {
        self.data["partial"].as_str()
    }

    /// How long to wait before the next try, where the sidecar knows.
    pub fn retry_after(&self) -> Option<Duration> {
        self.data["retry_after_ms"].as_u64().map(Duration::from_millis)
    }

    /// Whether what was interrupted can go on with `resume`.
    pub fn resumable(&self) -> bool {
        self.kind() == Kind::Interrupted && self.data["resumable"].as_bool().unwrap_or(false)
    }

    /// The error that a request ends with whose sidecar died, as a sidecar that survives says it.
    pub(crate) fn interrupted(message: String, partial: &str, seq: Option<u64>, resumable: bool) -> Self {
        let mut data = serde_json::json!({
            "type": "interrupted",
            "retryable": true,
            "partial": partial,
            "resumable": resumable,
        });
        if let Some(seq) = seq {
            data["seq"] = seq.into();
        }
        RpcError { code: 1008, message, data }
    }
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.message, self.code)
    }
}

impl std::error::Error for RpcError {}

macro_rules! kinds {
    ($($(#[$about:meta])* $name:ident = $code:literal,)*) => {
        /// What the code of an error means. Version 1 may grow: what it had not then is `Other`.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum Kind {
            $($(#[$about])* $name,)*
            /// A code that this crate does not know.
            Other,
        }

        impl Kind {
            /// What a code on the wire means.
            pub fn of(code: i64) -> Kind {
                match code {
                    $($code => Kind::$name,)*
                    _ => Kind::Other,
                }
            }
        }
    };
}

kinds! {
    /// The host's fault: the line is no JSON.
    ParseError = -32700,
    /// The host's fault: the line is no request.
    InvalidRequest = -32600,
    /// The host's fault: no such method. `data.available` lists those there are.
    MethodNotFound = -32601,
    /// The host's fault: `data.path` is not `data.expected`.
    InvalidParams = -32602,
    /// The sidecar's fault: `data.incident` is a place in its log.
    Internal = -32603,
    /// Nobody's fault: the host asked for it.
    Cancelled = -32800,
    /// The load's fault: nothing was started. See [`RpcError::retry_after`].
    Overloaded = 1001,
    /// The host's own limit passed first.
    DeadlineExceeded = 1002,
    /// The host's fault: no configuration names this model.
    ModelNotFound = 1003,
    /// The fault of the weights or the machine.
    ModelLoadFailed = 1004,
    /// The machine's fault: the device has not the memory.
    OutOfMemory = 1005,
    /// The host's fault: the prompt is longer than the model's context.
    ContextLengthExceeded = 1006,
    /// The fault of the provider: it answered with an error or not at all.
    ProviderError = 1007,
    /// The worker or the sidecar died under the request. See [`RpcError::partial`] and [`RpcError::resumable`].
    Interrupted = 1008,
    /// Nobody's fault: the sidecar takes no new work, it is leaving.
    ShuttingDown = 1009,
    /// This model or this version cannot do that.
    Unsupported = 1010,
    /// The host's fault: over a limit.
    TooLarge = 1011,
    /// The host's fault: what it names does not exist.
    NotFound = 1012,
    /// The host's fault: a place before what is kept, or after what exists.
    OutOfRange = 1013,
    /// The disk's fault.
    StorageFailed = 1014,
    /// The log's fault. `data.remedy` says the way on.
    LogUnusable = 1015,
    /// The host's to mend: `models.pull` brings the weights.
    ModelNotInstalled = 1016,
    /// The fault of the network, the disk or the source.
    PullFailed = 1017,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> RpcError {
        serde_json::from_str(text).expect("an error")
    }

    #[test]
    fn an_error_tells_its_kind_and_what_came_before_it() {
        let error = error(
            r#"{"code":1008,"message":"the worker died","data":{"type":"interrupted","retryable":true,
                "partial":"The se","seq":3,"resumable":true,"more":1}}"#,
        );
        assert_eq!(error.kind(), Kind::Interrupted);
        assert!(error.retryable() && error.resumable());
        assert_eq!(error.partial(), Some("The se"));
        assert_eq!(error.to_string(), "the worker died (1008)");
    }

    #[test]
    fn an_error_without_data_or_of_a_later_version_is_an_error_all_the_same() {
        let error = error(r#"{"code":4711,"message":"new"}"#);
        assert_eq!(error.kind(), Kind::Other);
        assert!(!error.retryable() && !error.resumable());
        assert_eq!((error.partial(), error.retry_after()), (None, None));
    }

    #[test]
    fn an_overloaded_sidecar_says_when_to_come_back() {
        let error = error(r#"{"code":1001,"message":"full","data":{"retryable":true,"retry_after_ms":250}}"#);
        assert_eq!(error.retry_after(), Some(Duration::from_millis(250)));
    }

    #[test]
    fn a_death_shows_the_last_lines_of_stderr_alone() {
        let stderr = (0..30).map(|number| format!("line {number}")).collect();
        let shown = Death { stderr, ..Death::default() }.to_string();
        assert!(shown.contains("line 29") && shown.contains("line 20") && !shown.contains("line 19"));
    }
}

//! A host of the mlzoo sidecar: spawn it, talk to it, and let its streams go on when it dies.
//!
//! ```no_run
//! use mlzoo::{Chat, Launch, Message, Policy, Supervisor};
//!
//! # async fn example() -> Result<(), mlzoo::Error> {
//! let launch = Launch::new("mlzoo").log("my-app-log");
//! let mlzoo = Supervisor::start(launch, Policy::new("my-app", "1.0")).await?;
//! let mut chat = Chat::new([Message::user("Tell me about the sea.")]);
//! chat.options.key = Some("question-17".into());
//! let mut answer = mlzoo.chat_stream(&chat).await?;
//! while let Some(delta) = answer.next().await? {
//!     print!("{}", delta.content);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! [`Client`] is one sidecar: when it is gone, so is the client. [`Supervisor`] is a sidecar that comes back: it is
//! restarted with backoff, and each stream of a request that has a key goes on where it was, every piece exactly once.
//!
//! # What this crate promises
//! - No consumer holds up another one. One task reads every line and waits for nobody; what a slow consumer has not
//!   taken is bounded, since pieces that wait too long are joined.
//! - Every call ends: with a result, with [`Error::Rpc`], or, where the sidecar is gone, with [`Error::Died`].
//! - Nothing is cancelled half: a line is written whole or not at all, and an answer that is dropped before its end is
//!   cancelled in the sidecar too, unless its request has a key: then it runs on, to be taken up again.
//! - A line that is too long is never held in memory, and stderr is always drained.
//! - Dropping the last handle, or [`Client::kill`], kills the sidecar **and its whole process group** (on Unix).
//!
//! # What the sidecar promises
//! No process that it started outlives it, even where it alone is killed, or where this program is killed and runs no
//! destructor: it is told this program's process id (`--parent-pid`) and leaves when that is gone. On Windows, where
//! there are no process groups to kill, this crate ends the sidecar and the sidecar's job object ends the rest.
//!
//! A request with a key runs exactly once, before and after crashes, on one log. So a supervised sidecar must always
//! be given the same one: [`Launch::log`].

#![deny(missing_docs, unsafe_code)]
#![warn(unreachable_pub)]

mod backoff;
mod client;
mod connection;
mod error;
mod inbox;
mod launch;
mod lines;
mod params;
mod process;
mod results;
mod seq;
mod stream;
mod supervised;
mod supervisor;
mod wire;

pub use backoff::Backoff;
pub use client::{Client, Connection};
pub use error::{Death, Error, Kind, RpcError};
pub use launch::Launch;
pub use params::{Chat, Complete, Embed, Message, Options};
pub use results::{
    AnswerMessage, Capabilities, ChatResult, CompleteResult, Delta, EmbedResult, EmbedUsage, Initialized, LogPlace,
    LogProblem, LogStatus, Pong, Progress, RequestCounts, Server, Status, Timing, TokenLogprob, ToolCall,
    ToolCallDelta, TopLogprob, Usage,
};
pub use stream::Stream;
pub use supervised::Supervised;
pub use supervisor::{Policy, Supervisor};

/// What most of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

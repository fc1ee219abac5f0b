//! One sidecar, as a host sees it.

use std::fmt;
use std::process::ExitStatus;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde::Serialize;
use serde_json::json;
use serde_json::value::to_raw_value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::connection::{OnProgress, Shared};
use crate::error::{Death, Error};
use crate::params::{Chat, Complete, Embed, Resume, Streaming};
use crate::process::Process;
use crate::results::{ChatResult, CompleteResult, EmbedResult, Initialized, Pong, Progress, Status};
use crate::seq::Seqs;
use crate::stream::Stream;
use crate::wire::{has_key, LINE_BYTES};

/// A running sidecar. Clones are the same client; any number of tasks may use it.
///
/// When the last clone and the last [`Stream`] of it are dropped, the sidecar and its process group are killed.
/// A sidecar survives that without loss, yet [`Client::shutdown`] is more polite: it lets what runs finish.
#[derive(Clone)]
pub struct Client {
    handle: Arc<Handle>,
}

struct Handle(Arc<Shared>);

impl Drop for Handle {
    fn drop(&mut self) {
        self.0.kill();
    }
}

/// How a connection is served.
#[derive(Clone)]
pub struct Connection {
    line_bytes: usize,
    on_progress: Option<OnProgress>,
}

impl Default for Connection {
    fn default() -> Self {
        Connection { line_bytes: LINE_BYTES, on_progress: None }
    }
}

impl Connection {
    /// The longest line in either direction, where `limits.line_bytes` is configured.
    pub fn line_bytes(mut self, bytes: usize) -> Self {
        self.line_bytes = bytes;
        self
    }

    /// Hear how far long work is that requests wait for. The callback must not block: nothing is read meanwhile.
    pub fn on_progress(mut self, callback: impl Fn(&Progress) + Send + Sync + 'static) -> Self {
        self.on_progress = Some(Arc::new(callback));
        self
    }

    /// Speak to a sidecar that somebody else started, such as a service on a Unix socket. Needs a tokio runtime.
    pub fn over(
        self,
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
    ) -> Client {
        self.serve(reader, writer, None)
    }

    pub(crate) fn serve(
        self,
        reader: impl AsyncRead + Send + Unpin + 'static,
        writer: impl AsyncWrite + Send + Unpin + 'static,
        process: Option<Process>,
    ) -> Client {
        let shared = Shared::serve(reader, writer, process, self.line_bytes, self.on_progress);
        Client { handle: Arc::new(Handle(shared)) }
    }
}

impl Client {
    /// The sidecar's process id; None where it is gone, or nobody's child.
    pub fn pid(&self) -> Option<u32> {
        self.shared().pid()
    }

    /// Say who the host is, and hear what the sidecar says of itself and its limits.
    pub async fn initialize(&self, name: &str, version: &str) -> Result<Initialized, Error> {
        let params = json!({"protocol_version": "1", "client": {"name": name, "version": version}});
        let initialized: Initialized = self.call("initialize", &params).await?;
        if let Some(&bytes) = initialized.limits.get("line_bytes") {
            self.shared().limit_lines(bytes as usize);
        }
        Ok(initialized)
    }

    /// Hear whether the sidecar answers.
    pub async fn ping(&self) -> Result<(), Error> {
        self.call("ping", &json!({})).await.map(|Pong {}| ())
    }

    /// Hear what a person would ask first.
    pub async fn status(&self) -> Result<Status, Error> {
        self.call("status", &json!({})).await
    }

    /// Have a conversation answered.
    pub async fn chat(&self, chat: &Chat) -> Result<ChatResult, Error> {
        self.open("chat", chat, chat.options.key.as_deref(), Seqs::START).await?.result().await
    }

    /// Have a conversation answered piece by piece.
    pub async fn chat_stream(&self, chat: &Chat) -> Result<Stream<ChatResult>, Error> {
        self.open("chat", &Streaming::new(chat), chat.options.key.as_deref(), Seqs::START).await
    }

    /// Have a text continued.
    pub async fn complete(&self, complete: &Complete) -> Result<CompleteResult, Error> {
        self.open("complete", complete, complete.options.key.as_deref(), Seqs::START).await?.result().await
    }

    /// Have a text continued piece by piece.
    pub async fn complete_stream(&self, complete: &Complete) -> Result<Stream<CompleteResult>, Error> {
        self.open("complete", &Streaming::new(complete), complete.options.key.as_deref(), Seqs::START).await
    }

    /// Have texts made vectors.
    pub async fn embed(&self, embed: &Embed) -> Result<EmbedResult, Error> {
        self.open("embed", embed, embed.key.as_deref(), Seqs::START).await?.result().await
    }

    /// Take up a request that has a key, on this connection or another, after the last piece that was seen.
    ///
    /// The type is that of the request's answer: `client.resume::<ChatResult>(key, None)`.
    pub async fn resume<R: DeserializeOwned>(&self, key: &str, after: Option<u64>) -> Result<Stream<R>, Error> {
        self.open("resume", &Resume::after(key, after), Some(key), Seqs::after(after)).await
    }

    /// Have a request of this connection end with its partial text; false where it had ended.
    pub async fn cancel(&self, request: u64) -> Result<bool, Error> {
        self.ask_cancel(json!({ "request": request })).await
    }

    /// Have a request of any connection end with its partial text; false where it had ended.
    pub async fn cancel_key(&self, key: &str) -> Result<bool, Error> {
        self.ask_cancel(json!({ "key": key })).await
    }

    /// Call any method. A call that is dropped is cancelled in the sidecar too, unless its params have a `key`: then it
    /// runs on, as a [`Stream`] of such a request does.
    ///
    /// An error of [`Error::Params`], [`Error::Rpc`] or [`Error::Protocol`] leaves the client usable, others do not.
    pub async fn call<P: Serialize, R: DeserializeOwned>(&self, method: &str, params: &P) -> Result<R, Error> {
        self.open(method, params, None, Seqs::START).await?.result().await
    }

    /// Let the sidecar finish what runs, then leave; kill it where that takes longer. Returns its exit status.
    pub async fn shutdown(&self, within: Duration) -> Option<ExitStatus> {
        let leave = async {
            // Whatever the answer is, the end of stdin says the same.
            let _ = self.call::<_, Pong>("shutdown", &json!({})).await;
            self.shared().finish();
            self.gone().await
        };
        if let Ok(death) = timeout(within, leave).await {
            return death.status;
        }
        self.kill();
        self.gone().await.status
    }

    /// Kill the sidecar and its process group, at once. What waits for an answer ends with [`Error::Closed`].
    pub fn kill(&self) {
        self.shared().kill();
    }

    /// Wait until the sidecar is gone, whoever ended it.
    pub async fn gone(&self) -> Arc<Death> {
        self.shared().gone().await
    }

    /// Send a request. An error says that nothing was sent.
    pub(crate) async fn open<P: Serialize, R>(
        &self,
        method: &str,
        params: &P,
        key: Option<&str>,
        seqs: Seqs,
    ) -> Result<Stream<R>, Error> {
        let params = to_raw_value(params).map_err(|error| Error::Params(error.to_string().into()))?;
        let ends_with_listener = key.is_none() && !has_key(&params);
        let (id, inbox) = self.shared().request(method, &params, seqs).await?;
        Ok(Stream::new(self.clone(), id, key, ends_with_listener, inbox))
    }

    pub(crate) fn shared(&self) -> &Shared {
        &self.handle.0
    }

    async fn ask_cancel(&self, params: serde_json::Value) -> Result<bool, Error> {
        #[derive(serde::Deserialize)]
        struct Cancelled {
            cancelled: bool,
        }
        self.call("cancel", &params).await.map(|Cancelled { cancelled }| cancelled)
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("pid", &self.pid()).finish()
    }
}

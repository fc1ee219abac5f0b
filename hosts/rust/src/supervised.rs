//! An answer that goes on when its sidecar dies: each piece exactly once, across any number of lives.

use std::fmt;

use serde::de::DeserializeOwned;
use serde::Serialize;
use serde_json::value::{to_raw_value, RawValue};
use tokio::time::sleep;

use crate::error::{Error, Kind, RpcError};
use crate::params::Resume;
use crate::results::Delta;
use crate::seq::Seqs;
use crate::stream::Stream;
use crate::supervisor::{Life, Supervisor};

/// What was asked.
pub(crate) struct Asked {
    /// None: by somebody else, or before this program began.
    request: Option<(String, Box<RawValue>)>,
    key: Option<String>,
    seq: Option<u64>,
}

impl Asked {
    pub(crate) fn now<P: Serialize>(method: &str, params: &P, key: Option<&str>) -> Result<Self, Error> {
        let params = to_raw_value(params).map_err(|error| Error::Params(error.to_string().into()))?;
        Ok(Asked { request: Some((method.into(), params)), key: key.map(str::to_owned), seq: None })
    }

    pub(crate) fn before(key: &str, seq: Option<u64>) -> Self {
        Asked { request: None, key: Some(key.into()), seq }
    }
}

/// An answer that streams and that goes on when its sidecar dies. Use it as a [`Stream`].
///
/// With a key it goes on after the last piece that was taken in, as if nothing had happened. Without one it ends with
/// [`Kind::Interrupted`]: the partial text is in the error. Dropped before its end, a request without a key is cancelled
/// where a sidecar runs; see [`Supervised::detach`]. One with a key runs on, as that of a [`Stream`] does:
/// [`Supervisor::resume`] hears of it, and [`Supervised::cancel`] or [`Supervisor::cancel_key`] ends it.
pub struct Supervised<R> {
    supervisor: Supervisor,
    asked: Asked,
    /// None: between two lives.
    stream: Option<Stream<R>>,
    /// Whether the request has reached a sidecar, as far as we know: then it is resumed and not sent again.
    sent: bool,
    /// Whether the stream is that of a `resume`.
    resumes: bool,
    /// The life that the stream belongs to, or belonged to,
    life: u64,
    /// the log of that life,
    log: Option<String>,
    /// and the first that may take its place.
    next_life: u64,
    /// The last piece that was taken.
    seq: Option<u64>,
    partial: String,
    /// How often it was resumed without a new piece.
    fruitless: u32,
    end: Option<Error>,
}

impl<R> Supervised<R> {
    pub(crate) async fn open(supervisor: Supervisor, asked: Asked) -> Result<Self, Error> {
        let mut answer = Supervised {
            sent: asked.request.is_none(),
            seq: asked.seq,
            supervisor,
            asked,
            stream: None,
            resumes: false,
            life: 0,
            log: None,
            next_life: 0,
            partial: String::new(),
            fruitless: 0,
            end: None,
        };
        answer.connect().await?;
        Ok(answer)
    }

    /// The number of the last piece that was taken; None before the first.
    pub fn seq(&self) -> Option<u64> {
        self.seq
    }

    /// The next piece; None after the last one. A call that is dropped has taken none.
    pub async fn next(&mut self) -> Result<Option<Delta>, Error> {
        loop {
            if let Some(end) = &self.end {
                return Err(end.clone());
            }
            let Some(stream) = &mut self.stream else {
                self.go_on().await;
                continue;
            };
            match stream.next().await {
                Ok(Some(delta)) => {
                    self.seq = Some(delta.seq);
                    self.partial.push_str(&delta.content);
                    self.fruitless = 0;
                    return Ok(Some(delta));
                }
                Ok(None) => return Ok(None),
                Err(error) => self.broken_off(error),
            }
        }
    }

    /// Have the request end with its partial text; false where it had ended. Its error still comes here.
    pub async fn cancel(&self) -> Result<bool, Error> {
        match (&self.asked.key, &self.stream) {
            (Some(key), _) => self.supervisor.life(self.next_life).await?.client.cancel_key(key).await,
            (None, Some(stream)) => stream.cancel().await,
            (None, None) => Ok(false),
        }
    }

    /// Let the request run without this stream, as one with a key does anyway.
    pub fn detach(mut self) {
        if let Some(stream) = self.stream.take() {
            stream.detach();
        }
    }

    /// Take in that the stream has ended with an error: either that is the end, or there is a way on.
    fn broken_off(&mut self, error: Error) {
        self.stream = None;
        let way_on = match &error {
            Error::Died(_) => self.asked.key.is_some(),
            Error::Rpc(refusal) if self.resumes && self.never_arrived(refusal) => {
                self.sent = false;
                true
            }
            // Refused at the door of a sidecar that leaves: nothing has run, and the next one will take it.
            Error::Rpc(refusal) if refusal.kind() == Kind::ShuttingDown => {
                self.next_life = self.life + 1;
                self.sent = self.resumes;
                true
            }
            Error::Rpc(refusal) => refusal.resumable() && self.asked.key.is_some(),
            _ => false,
        };
        self.fruitless += 1;
        if !way_on || self.fruitless > self.supervisor.policy().tries {
            self.end = Some(self.last_words(error));
        }
    }

    /// Whether the sidecar died before it had recorded the request. Nothing of it has run, so it is sent again.
    fn never_arrived(&self, refusal: &RpcError) -> bool {
        refusal.kind() == Kind::NotFound
            && refusal.data["what"] == "key"
            && self.seq.is_none()
            && self.asked.request.is_some()
    }

    /// Take the stream up again. The first time at once; where that brought nothing, after a wait.
    async fn go_on(&mut self) {
        if self.fruitless > 1 {
            sleep(self.supervisor.policy().wait(self.fruitless - 2)).await;
        }
        if let Err(error) = self.connect().await {
            self.end = Some(self.last_words(error));
        }
    }

    /// Send the request, or ask for the rest of it, as soon as there is a sidecar.
    async fn connect(&mut self) -> Result<(), Error> {
        loop {
            let life = self.supervisor.life(self.next_life).await?;
            let request = self.asked.request.as_ref().filter(|_| !self.sent);
            let stream = match request {
                Some((method, params)) => {
                    life.client.open(method, params, self.asked.key.as_deref(), Seqs::START).await
                }
                None => self.resume(&life).await,
            };
            match stream {
                Ok(stream) => {
                    self.resumes = request.is_none();
                    self.stream = Some(stream);
                    self.sent = true;
                    self.life = life.number;
                    self.log = life.log;
                    return Ok(());
                }
                // Nothing was sent.
                Err(Error::Died(_) | Error::Closed) => self.next_life = life.number + 1,
                Err(error) => return Err(error),
            }
        }
    }

    async fn resume(&self, life: &Life) -> Result<Stream<R>, Error> {
        let key = self.asked.key.as_deref().unwrap_or_default(); // What has none is not resumed.
        if self.log.is_some() && life.log.is_some() && self.log != life.log {
            let message = "the sidecar came back with another log".to_owned();
            return Err(Error::Rpc(RpcError::interrupted(message, &self.partial, self.seq, false).into()));
        }
        life.client.open("resume", &Resume::after(key, self.seq), Some(key), Seqs::after(self.seq)).await
    }

    /// What the caller hears in the end: of a death, the error that a surviving sidecar would have sent.
    fn last_words(&self, error: Error) -> Error {
        match error {
            Error::Died(_) | Error::GaveUp(_) => {
                let resumable = self.asked.key.is_some();
                Error::Rpc(RpcError::interrupted(error.to_string(), &self.partial, self.seq, resumable).into())
            }
            other => other,
        }
    }
}

impl<R: DeserializeOwned> Supervised<R> {
    /// The whole answer; pieces that were not taken are passed over.
    pub async fn result(mut self) -> Result<R, Error> {
        while self.next().await?.is_some() {}
        match self.stream.take() {
            Some(stream) => stream.result().await,
            None => Err(Error::Closed), // After the last piece there is always a stream.
        }
    }
}

impl<R> fmt::Debug for Supervised<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Supervised").field("key", &self.asked.key).field("seq", &self.seq).finish()
    }
}

//! The answer to one request, piece by piece, then whole.

use std::fmt;
use std::future::poll_fn;
use std::marker::PhantomData;
use std::sync::Arc;
use std::task::{ready, Context, Poll};

use serde::de::DeserializeOwned;
use serde_json::json;
use serde_json::value::RawValue;

use crate::client::Client;
use crate::error::Error;
use crate::inbox::{Arrival, Inbox};
use crate::results::Delta;

/// An answer that streams: take its pieces with [`Stream::next`], then its [`Stream::result`]; or the result at once.
///
/// A consumer may take its time: what it has not taken is bounded, and nobody waits for it.
///
/// Dropped before its end, a request without a key is cancelled in the sidecar; see [`Stream::detach`]. One with a key
/// is meant to outlive who listens, and what it ends with is what its key stands for ever after: so it runs on,
/// [`Client::resume`] hears of it, and [`Stream::cancel`] or [`Client::cancel_key`] ends it.
pub struct Stream<R> {
    client: Client,
    id: u64,
    key: Option<String>,
    /// Whether it is cancelled when this is dropped.
    ends_with_listener: bool,
    inbox: Arc<Inbox>,
    seq: Option<u64>,
    end: Option<Result<Box<RawValue>, Error>>,
    answer: PhantomData<fn() -> R>,
}

impl<R> Stream<R> {
    pub(crate) fn new(client: Client, id: u64, key: Option<&str>, ends_with_listener: bool, inbox: Arc<Inbox>) -> Self {
        let key = key.map(str::to_owned);
        Stream { client, id, key, ends_with_listener, inbox, seq: None, end: None, answer: PhantomData }
    }

    /// The request's id on its connection.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The number of the last piece that was taken: after it `resume` would go on. None before the first.
    pub fn seq(&self) -> Option<u64> {
        self.seq
    }

    /// The next piece; None after the last one. A call that is dropped has taken none.
    pub async fn next(&mut self) -> Result<Option<Delta>, Error> {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// What [`Stream::next`] waits for, to make a `futures::Stream` of it.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<Delta>, Error>> {
        if self.end.is_none() {
            match ready!(self.inbox.poll(cx)) {
                Arrival::Piece(delta) => {
                    self.seq = Some(delta.seq);
                    return Poll::Ready(Ok(Some(delta)));
                }
                Arrival::End(end) => self.end = Some(end),
            }
        }
        Poll::Ready(match &self.end {
            Some(Err(error)) => Err(error.clone()),
            _ => Ok(None),
        })
    }

    /// Have the request end with its partial text; false where it had ended. Its error still comes here.
    pub async fn cancel(&self) -> Result<bool, Error> {
        match &self.key {
            Some(key) => self.client.cancel_key(key).await,
            None => self.client.cancel(self.id).await,
        }
    }

    /// Let the request run without this stream, as one with a key does anyway.
    pub fn detach(self) {
        self.client.shared().forget(self.id);
    }

    /// The whole answer, as the sidecar wrote it.
    pub(crate) async fn raw(&mut self) -> Result<Box<RawValue>, Error> {
        while self.next().await?.is_some() {}
        self.end.take().unwrap_or(Err(Error::Closed))
    }
}

impl<R: DeserializeOwned> Stream<R> {
    /// The whole answer; pieces that were not taken are passed over.
    pub async fn result(mut self) -> Result<R, Error> {
        read_result(&self.raw().await?)
    }
}

impl<R> Drop for Stream<R> {
    fn drop(&mut self) {
        let shared = self.client.shared();
        let left_early = shared.forget(self.id);
        if left_early && self.ends_with_listener {
            shared.note("cancel", &json!({ "request": self.id }));
        }
    }
}

impl<R> fmt::Debug for Stream<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Stream").field("id", &self.id).field("key", &self.key).field("seq", &self.seq).finish()
    }
}

pub(crate) fn read_result<R: DeserializeOwned>(raw: &RawValue) -> Result<R, Error> {
    serde_json::from_str(raw.get()).map_err(|error| Error::protocol(format!("this answer is none: {error}")))
}

//! What has arrived for one request and was not taken yet: bounded, whatever its consumer does.
//!
//! One task puts and never waits, another one takes. The bound is no loss: pieces that wait too long are joined, since
//! a stream's pieces concatenate to the whole, which fits into one line anyway.

use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use serde_json::value::RawValue;

use crate::error::Error;
use crate::results::Delta;
use crate::seq::Seqs;

const PIECES: usize = 256; // How many wait one by one; those that follow are joined to the last of them.

/// What comes next out of an inbox.
#[derive(Debug)]
pub(crate) enum Arrival {
    Piece(Delta),
    End(Result<Box<RawValue>, Error>),
}

/// See the module. For one consumer.
pub(crate) struct Inbox {
    state: Mutex<State>,
}

struct State {
    pieces: VecDeque<Delta>,
    seqs: Seqs,
    end: Option<Result<Box<RawValue>, Error>>,
    ended: bool,
    waker: Option<Waker>,
}

impl State {
    fn finish(&mut self, end: Result<Box<RawValue>, Error>) {
        self.end = Some(end);
        self.ended = true;
    }
}

impl Inbox {
    pub(crate) fn new(seqs: Seqs) -> Self {
        let state = State { pieces: VecDeque::new(), seqs, end: None, ended: false, waker: None };
        Inbox { state: Mutex::new(state) }
    }

    /// Add a piece. After an end nothing counts any more; a piece out of turn is the end.
    pub(crate) fn put(&self, piece: Delta) {
        let mut state = self.lock();
        if state.ended {
            return;
        }
        if let Err(wrong) = state.seqs.accept(piece.seq) {
            state.finish(Err(Error::protocol(wrong)));
        } else if state.pieces.len() < PIECES {
            state.pieces.push_back(piece);
        } else if let Some(last) = state.pieces.back_mut() {
            last.join(piece);
        }
        wake(state);
    }

    /// Add the end.
    pub(crate) fn end(&self, end: Result<Box<RawValue>, Error>) {
        let mut state = self.lock();
        if !state.ended {
            state.finish(end);
        }
        wake(state);
    }

    /// What comes next: pieces in order, then once the end.
    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<Arrival> {
        let mut state = self.lock();
        if let Some(piece) = state.pieces.pop_front() {
            return Poll::Ready(Arrival::Piece(piece));
        }
        if let Some(end) = state.end.take() {
            return Poll::Ready(Arrival::End(end));
        }
        state.waker = Some(cx.waker().clone());
        Poll::Pending
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics under this lock, so what is behind it is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn wake(mut state: MutexGuard<'_, State>) {
    let waker = state.waker.take();
    drop(state);
    if let Some(waker) = waker {
        waker.wake();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::sync::Arc;

    fn piece(seq: u64) -> Delta {
        Delta { seq, content: format!("{seq} "), ..Delta::default() }
    }

    async fn take_all(inbox: &Inbox) -> (Vec<Delta>, Result<Box<RawValue>, Error>) {
        let mut pieces = Vec::new();
        loop {
            match poll_fn(|cx| inbox.poll(cx)).await {
                Arrival::Piece(piece) => pieces.push(piece),
                Arrival::End(end) => return (pieces, end),
            }
        }
    }

    fn null() -> Box<RawValue> {
        RawValue::from_string("null".into()).expect("JSON")
    }

    #[tokio::test]
    async fn pieces_that_nobody_takes_are_joined_and_none_is_lost() {
        let inbox = Inbox::new(Seqs::START);
        (0..10_000).for_each(|seq| inbox.put(piece(seq)));
        inbox.end(Ok(null()));
        let (pieces, end) = take_all(&inbox).await;
        assert!(end.is_ok());
        assert_eq!((pieces.len(), pieces[PIECES - 1].seq), (PIECES, 9_999));
        let text: String = pieces.iter().map(|piece| piece.content.as_str()).collect();
        assert_eq!(text, (0..10_000).map(|seq| format!("{seq} ")).collect::<String>());
    }

    #[tokio::test]
    async fn a_piece_out_of_turn_ends_the_stream_after_what_was_right() {
        for wrong in [1, 3] {
            let inbox = Inbox::new(Seqs::START);
            [0, 1, wrong, 2].into_iter().for_each(|seq| inbox.put(piece(seq)));
            inbox.end(Ok(null()));
            let (pieces, end) = take_all(&inbox).await;
            assert_eq!(pieces.len(), 2);
            assert!(matches!(end, Err(Error::Protocol(_))));
        }
    }

    #[tokio::test]
    async fn a_consumer_that_waits_is_woken_by_a_piece_and_by_the_end() {
        let inbox = Arc::new(Inbox::new(Seqs::START));
        let consumer = tokio::spawn({
            let inbox = Arc::clone(&inbox);
            async move { take_all(&inbox).await }
        });
        tokio::task::yield_now().await;
        inbox.put(piece(0));
        tokio::task::yield_now().await;
        inbox.end(Ok(null()));
        assert_eq!(consumer.await.expect("it ends").0.len(), 1);
    }
}

//! A recording plays the sidecar's part: what a host says and hears, without any model.
//!
//! `recordings/session.ndjson` is what the test of real weights leaves in `target/tmp`.

use std::path::PathBuf;

use mlzoo::{Chat, Client, Complete, Embed, Kind, Launch, Message};

use crate::real::program;
use crate::{soon, PATIENCE};

/// What a session came to.
#[derive(Debug, PartialEq)]
pub(crate) struct Session {
    pub(crate) pieces: Vec<String>,
    pub(crate) answer: String,
    pub(crate) continuation: String,
    pub(crate) embeddings: Vec<Vec<f32>>,
}

/// One session: a chat that streams, a completion, embeddings and a refusal, one after the other.
///
/// Returns also what the log calls the connection.
pub(crate) async fn converse(client: &Client) -> (Session, String) {
    let connection = soon(client.initialize("host-tests", "1")).await.expect("an answer").connection;
    let mut chat = Chat::new([Message::user("What is the capital of France?")]);
    chat.options.temperature = Some(0.0);
    chat.options.key = Some("capital".into());
    let mut answer = soon(client.chat_stream(&chat)).await.expect("it is sent");
    let mut pieces = Vec::new();
    while let Some(delta) = soon(answer.next()).await.expect("nothing goes wrong") {
        pieces.push(delta.content);
    }
    let answer = soon(answer.result()).await.expect("it ended well").message.content;
    let mut complete = Complete::new("The capital of France is");
    complete.options.temperature = Some(0.0);
    complete.options.max_tokens = Some(3);
    let continuation = soon(client.complete(&complete)).await.expect("an answer").text;
    let embeddings = soon(client.embed(&Embed::new(["a cat", "a dog"]))).await.expect("an answer").embeddings;
    chat.options.model = Some("no-such-model".into());
    chat.options.key = None;
    let error = soon(client.chat(&chat)).await.expect_err("no such model");
    assert_eq!(error.rpc().expect("the sidecar's").kind(), Kind::ModelNotFound);
    (Session { pieces, answer, continuation, embeddings }, connection)
}

fn recording() -> PathBuf {
    [env!("CARGO_MANIFEST_DIR"), "tests", "recordings", "session.ndjson"].iter().collect()
}

#[tokio::test]
async fn a_recorded_session_is_played_to_the_host_that_says_the_same() {
    let client = Launch::replay(program(), recording()).spawn().expect("it starts");
    let (session, _) = converse(&client).await;
    assert_eq!(session.pieces.concat(), session.answer);
    assert_eq!((session.pieces.len(), session.answer.as_str()), (7, "The capital of France is Paris."));
    assert_eq!(session.continuation, " Paris.\n");
    assert_eq!(session.embeddings.iter().map(Vec::len).collect::<Vec<_>>(), [384, 384]);
    let status = soon(client.shutdown(PATIENCE)).await;
    assert!(status.expect("it has left").success(), "{}", client.gone().await);
}

#[tokio::test]
async fn a_host_that_says_something_else_hears_so_and_the_play_fails() {
    let client = Launch::replay(program(), recording()).spawn().expect("it starts");
    soon(client.initialize("host-tests", "2")).await.expect_err("another version was recorded");
    let status = soon(client.shutdown(PATIENCE)).await;
    assert_eq!(status.and_then(|status| status.code()), Some(1));
}

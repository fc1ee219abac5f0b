//! The real sidecar with real weights; `make weights` brings them.

use std::process::Command;

use mlzoo::{Chat, Launch, Message, Policy, Supervisor};

use crate::real::{launch, program};
use crate::replayed::converse;
use crate::{kill_9, soon, Place, PATIENCE};

#[tokio::test]
async fn what_was_recorded_with_real_weights_is_played_to_the_same_host() {
    let place = Place::new();
    let client = launch(&place).spawn().expect("it starts");
    let (said, connection) = converse(&client).await;
    assert!(said.answer.contains("Paris"), "{}", said.answer);
    assert!(soon(client.shutdown(PATIENCE)).await.expect("it has left").success());
    let recording = place.0.with_file_name("session.ndjson");
    let mut export = Command::new(program());
    export.args(["log", "export"]).arg(place.log()).args(["--connection", &connection, "-o"]).arg(&recording);
    assert!(export.status().expect("there is a program").success());
    let client = Launch::replay(program(), &recording).spawn().expect("it starts");
    assert_eq!(converse(&client).await.0, said);
    let status = soon(client.shutdown(PATIENCE)).await;
    assert!(status.expect("it has left").success(), "{}", client.gone().await);
}

#[tokio::test]
async fn a_story_goes_on_after_kill_9_in_mid_sentence_and_is_the_story_that_was_never_interrupted() {
    let place = Place::new();
    let mlzoo = soon(Supervisor::start(launch(&place), Policy::new("host-tests", "1"))).await.expect("it starts");
    let mut chat = Chat::new([Message::user("Tell me about the sea.")]);
    chat.options.temperature = Some(0.0);
    chat.options.max_tokens = Some(24);
    chat.options.determinism = Some("exact".into());
    let whole = soon(mlzoo.chat(&chat)).await.expect("an answer").message.content;
    chat.options.key = Some("sea".into());
    let mut answer = soon(mlzoo.chat_stream(&chat)).await.expect("it is sent");
    let (mut text, mut due) = (String::new(), 0);
    while let Some(delta) = soon(answer.next()).await.expect("it goes on") {
        assert_eq!(delta.seq, due);
        due += 1;
        text += &delta.content;
        if due == 6 {
            kill_9(mlzoo.pid());
        }
    }
    let result = soon(answer.result()).await.expect("it ended well");
    assert_eq!(result.resumed.as_deref(), Some("exact"));
    assert_eq!((&text, &result.message.content), (&whole, &whole));
    soon(mlzoo.shutdown(PATIENCE)).await;
}

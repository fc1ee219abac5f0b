//! The real sidecar, as far as it needs no model.
//!
//! The program is `$SIDECAR`, or else that of the virtual environment that `make setup` makes.

use std::path::{Path, PathBuf};

use mlzoo::{Chat, Kind, Launch, Message, Policy, Supervisor};
use serde_json::{json, Value};

use crate::{kill_9, soon, AllGone, Place, PATIENCE};

pub(crate) fn program() -> PathBuf {
    let program = std::env::var_os("SIDECAR")
        .map_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/mlzoo"), PathBuf::from);
    assert!(program.exists(), "{} is not there: run `make setup`, or say SIDECAR=/path/to/mlzoo", program.display());
    program
}

pub(crate) fn launch(place: &Place) -> Launch {
    Launch::new(program()).log(place.log())
}

#[tokio::test]
async fn it_says_who_it_is_and_how_it_is() {
    let place = Place::new();
    let client = launch(&place).spawn().expect("it starts");
    soon(client.ping()).await.expect("an answer");
    let initialized = soon(client.initialize("test", "1")).await.expect("an answer");
    assert_eq!((initialized.protocol_version.as_str(), initialized.server.name.as_str()), ("1", "mlzoo"));
    assert!(initialized.capabilities.methods.contains(&"chat".to_owned()));
    assert_eq!(initialized.limits["line_bytes"], 16_777_216.0);
    let status = soon(client.status()).await.expect("an answer");
    assert_eq!((Some(status.pid), status.requests.running), (client.pid(), 0));
    assert_eq!(status.log.id, initialized.log.map(|log| log.id));
}

#[tokio::test]
async fn its_errors_are_typed_and_leave_it_usable() {
    let place = Place::new();
    let client = launch(&place).spawn().expect("it starts");
    let mut chat = Chat::new([Message::user("Hi")]);
    chat.options.model = Some("no-such-model".into());
    let error = soon(client.chat(&chat)).await.expect_err("no such model");
    let error = error.rpc().expect("the sidecar's");
    assert_eq!((error.kind(), &error.data["model"]), (Kind::ModelNotFound, &json!("no-such-model")));
    assert!(!error.retryable());
    chat.options.temperature = Some(-1.0);
    let error = soon(client.chat_stream(&chat)).await.expect("it is sent");
    let error = soon(error.result()).await.expect_err("no such temperature");
    assert_eq!(error.rpc().expect("the sidecar's").data["path"], "temperature");
    let error = soon(client.call::<_, Value>("sing", &json!({}))).await.expect_err("no such method");
    assert_eq!(error.rpc().expect("the sidecar's").kind(), Kind::MethodNotFound);
    assert!(!soon(client.cancel(4711)).await.expect("what is unknown is no error"));
    soon(client.ping()).await.expect("an answer");
}

#[tokio::test]
async fn it_leaves_when_it_is_asked_to() {
    let place = Place::new();
    let client = launch(&place).spawn().expect("it starts");
    soon(client.ping()).await.expect("an answer");
    let status = soon(client.shutdown(PATIENCE)).await;
    assert!(status.expect("it has left").success());
}

#[tokio::test]
async fn killing_it_leaves_no_process() {
    let place = Place::new();
    let (launch, gone) = AllGone::watch(launch(&place));
    let client = launch.spawn().expect("it starts");
    drop(launch);
    soon(client.ping()).await.expect("an answer");
    client.kill();
    soon(gone.wait()).await;
}

#[tokio::test]
async fn wrong_settings_are_told_on_stderr() {
    let place = Place::new();
    let client = launch(&place).argument("limits.nonsense=1").spawn().expect("it starts");
    let death = soon(client.gone()).await;
    assert_eq!(death.status.and_then(|status| status.code()), Some(2));
    assert!(death.to_string().contains("nonsense"), "{death}");
}

#[tokio::test]
async fn it_comes_back_after_kill_9_with_the_same_log() {
    let place = Place::new();
    let mlzoo = soon(Supervisor::start(launch(&place), Policy::new("test", "1"))).await.expect("it starts");
    let first = soon(mlzoo.status()).await.expect("an answer");
    kill_9(Some(first.pid));
    let second = loop {
        // The call that the dying one took is interrupted; the next one waits.
        match soon(mlzoo.status()).await {
            Ok(status) => break status,
            Err(error) => assert_eq!(error.rpc().expect("the error of a sidecar").kind(), Kind::Interrupted),
        }
    };
    assert_ne!(second.pid, first.pid);
    assert_eq!(second.log.id, first.log.id);
    soon(mlzoo.shutdown(PATIENCE)).await;
}

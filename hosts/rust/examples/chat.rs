//! A chat that survives the death of its sidecar: `cargo run --example chat -- "Tell me about the sea."`
//!
//! While it speaks, kill its sidecar from another terminal (`kill -9` with the process id that `ps` shows for it): the
//! sentence goes on.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mlzoo::{Chat, Launch, Message, Policy, Supervisor};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let question = std::env::args().nth(1).unwrap_or_else(|| "What is the capital of France?".into());

    // One log for ever: it is what a restarted sidecar goes on from.
    let log = std::env::temp_dir().join("mlzoo-chat");
    let policy = Policy::new("chat", "1.0").on_restart(|why, wait| eprintln!("\n[{why}; again in {wait:?}]"));
    let mlzoo = Supervisor::start(Launch::new("mlzoo").log(log), policy).await?;

    let mut chat = Chat::new([Message::user(question)]);
    // A key of its own makes a request run exactly once, and its stream outlive a crash.
    chat.options.key = Some(format!("chat-{}", SystemTime::now().duration_since(UNIX_EPOCH)?.as_nanos()));

    let mut answer = mlzoo.chat_stream(&chat).await?;
    while let Some(delta) = answer.next().await? {
        print!("{}", delta.content);
        std::io::stdout().flush()?;
    }
    let result = answer.result().await?;
    println!("\n[{} tokens by {} on {}]", result.usage.completion_tokens, result.model, result.device);

    mlzoo.shutdown(Duration::from_secs(10)).await;
    Ok(())
}

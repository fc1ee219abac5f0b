//! A sidecar without models, for the tests of a host: it says what it was told, and fails in the way it was asked to.
//!
//! It speaks the protocol on stdio as docs/PROTOCOL.md has it: ids, streams, keys, `resume`, `cancel`. What was asked
//! with a key is in a file of the log directory before a piece of it is spoken, so the next life can go on. The name of
//! the model says what goes wrong; `Fault` lists it.

use std::collections::HashMap;
use std::fs;
use std::io::{self, BufRead, Write};
use std::path::{Path, PathBuf};
use std::process::{exit, Command, Stdio};

use serde_json::{json, Value};

fn main() {
    let mut arguments = std::env::args().skip(1);
    let mut log = None;
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "serve" => {}
            "--parent-pid" => drop(arguments.next()),
            "--log" => log = arguments.next().map(PathBuf::from),
            _ => {
                eprintln!("there is no setting {argument}");
                exit(2);
            }
        }
    }
    let log = log.expect("a log directory");
    fs::create_dir_all(&log).expect("the log directory can be made");
    Sidecar { log, running: HashMap::new() }.serve();
}

/// What goes wrong with a request.
#[derive(Clone, Copy, PartialEq)]
enum Fault {
    /// `plain`: nothing.
    None,
    /// `stops-after-N`: it speaks N pieces, and no more until it is resumed or cancelled.
    StopsAfter(usize),
    /// `dies-after-N`: N pieces further on, the process is gone, in each life.
    DiesAfter(usize),
    /// `interrupted-after-N`: N pieces further on, the worker dies, and only that.
    InterruptedAfter(usize),
    /// `dies-deaf`: the process dies before it has recorded the request; its next life does not.
    DiesDeaf,
    /// `leaves`: the sidecar is leaving and takes no new work; its next life does.
    Leaves,
    /// `repeats`, `skips`: after a stop, `resume` begins one piece too early, or too late.
    Repeats,
    Skips,
    /// `babbles`: a library prints to stdout.
    Babbles,
    /// `roars`: a line is longer than 64 KiB.
    Roars,
    /// `screams`: stderr gets 4 MiB before the answer.
    Screams,
    /// `forks`: it starts a process, which is what the answer names.
    Forks,
}

fn fault(params: &Value) -> Fault {
    let model = params["model"].as_str().unwrap_or("plain");
    let (name, number) = model.rsplit_once("-after-").unwrap_or((model, "0"));
    let number = number.parse().expect("a number of pieces");
    match name {
        "plain" => Fault::None,
        "stops" => Fault::StopsAfter(number),
        "dies" => Fault::DiesAfter(number),
        "interrupted" => Fault::InterruptedAfter(number),
        "dies-deaf" => Fault::DiesDeaf,
        "leaves" => Fault::Leaves,
        "repeats" => Fault::Repeats,
        "skips" => Fault::Skips,
        "babbles" => Fault::Babbles,
        "roars" => Fault::Roars,
        "screams" => Fault::Screams,
        "forks" => Fault::Forks,
        _ => panic!("there is no fault {model}"),
    }
}

/// A request that was accepted.
#[derive(Clone)]
struct Request {
    method: String,
    params: Value,
    /// The id under which whoever listens has asked.
    id: Value,
    /// How many pieces were spoken, in all lives.
    spoken: usize,
    streams: bool,
}

impl Request {
    fn text(&self) -> &str {
        self.params["prompt"].as_str().or(self.params["messages"][0]["content"].as_str()).unwrap_or("")
    }

    fn pieces(&self) -> Vec<&str> {
        self.text().split_inclusive(' ').collect()
    }

    fn partial(&self) -> String {
        self.pieces()[..self.spoken].concat()
    }

    fn key(&self) -> Option<&str> {
        self.params["key"].as_str()
    }
}

struct Sidecar {
    log: PathBuf,
    /// What was asked and has not ended, by the JSON of its id.
    running: HashMap<String, Request>,
}

fn say(message: Value) {
    let mut stdout = io::stdout().lock();
    // A host that is gone needs no answer.
    let _ = stdout.write_all(format!("{message}\n").as_bytes()).and_then(|()| stdout.flush());
}

fn answer(id: &Value, result: Value) {
    say(json!({"jsonrpc": "2.0", "id": id, "result": result}));
}

fn fail(id: &Value, code: i64, message: &str, data: Value) {
    say(json!({"jsonrpc": "2.0", "id": id, "error": {"code": code, "message": message, "data": data}}));
}

impl Sidecar {
    fn serve(&mut self) {
        for line in io::stdin().lock().lines() {
            let message: Value = serde_json::from_str(&line.expect("text")).expect("JSON");
            self.take(message["method"].as_str().expect("a method"), &message["id"], &message["params"]);
        }
        let running = std::mem::take(&mut self.running);
        for request in running.values() {
            interrupt(request);
        }
    }

    fn take(&mut self, method: &str, id: &Value, params: &Value) {
        match method {
            "initialize" => answer(id, self.initialized()),
            "ping" => answer(id, json!({})),
            "shutdown" => {
                answer(id, json!({}));
                exit(0);
            }
            "chat" | "complete" | "embed" => self.ask(method, id, params),
            "resume" => self.resume(id, params["key"].as_str().expect("a key"), params["after"].as_i64().unwrap_or(-1)),
            "cancel" => self.cancel(id, params),
            _ => fail(id, -32601, "there is no such method", json!({"available": ["ping"]})),
        }
    }

    fn initialized(&self) -> Value {
        let path = self.log.join("id");
        let log_id = fs::read_to_string(&path).unwrap_or_else(|_| "log-1".into());
        fs::write(path, &log_id).expect("the log can be written");
        json!({
            "protocol_version": "1",
            "server": {"name": "scripted", "version": "0"},
            "capabilities": {"methods": ["ping", "chat"], "features": [], "providers": [], "devices": []},
            "limits": {"line_bytes": 16_777_216, "drain_s": 5.0},
            "log": {"id": log_id, "format": 1, "oldest": 1, "last": 1},
            "connection": "con-1",
        })
    }

    fn ask(&mut self, method: &str, id: &Value, params: &Value) {
        let streams = params["stream"].as_bool().unwrap_or(false);
        let request = Request { method: method.into(), params: params.clone(), id: id.clone(), spoken: 0, streams };
        let first_life = !self.log.join("died").exists();
        if first_life && matches!(fault(params), Fault::DiesDeaf | Fault::Leaves) {
            fs::write(self.log.join("died"), "").expect("the log can be written");
            if fault(params) == Fault::DiesDeaf {
                std::process::abort();
            }
            fail(id, 1009, "leaving", json!({"type": "shutting_down", "retryable": false}));
            exit(0);
        }
        if request.key().is_some_and(|key| self.recorded(key).is_some()) {
            fail(id, -32602, "this host sends no key twice", json!({"path": "key", "expected": "a new one"}));
            return;
        }
        self.record(&request);
        let limit = match fault(params) {
            Fault::StopsAfter(number) => number,
            Fault::Repeats | Fault::Skips => 2,
            _ => usize::MAX,
        };
        self.speak(request, limit);
    }

    fn resume(&mut self, id: &Value, key: &str, after: i64) {
        let Some(mut request) = self.recorded(key) else {
            return fail(
                id,
                1012,
                "no such key",
                json!({"type": "not_found", "retryable": false, "what": "key", "id": key}),
            );
        };
        let mut first = usize::try_from(after + 1).expect("at least -1");
        match fault(&request.params) {
            Fault::Repeats => first -= 1,
            Fault::Skips => first += 1,
            _ => {}
        }
        request.id = id.clone();
        request.streams = true;
        for seq in first..request.spoken {
            piece(&request, seq);
        }
        request.spoken = request.spoken.max(first);
        self.speak(request, usize::MAX);
    }

    /// Speak up to so many pieces, then answer unless some are left.
    fn speak(&mut self, mut request: Request, limit: usize) {
        let fault = fault(&request.params);
        let total = if request.method == "embed" { 0 } else { request.pieces().len() };
        for further in 0..=(total - request.spoken) {
            match fault {
                Fault::DiesAfter(number) if number == further => std::process::abort(),
                Fault::InterruptedAfter(number) if number == further => return interrupt(&request),
                _ => {}
            }
            if further == limit {
                self.running.insert(request.id.to_string(), request);
                return;
            }
            if request.spoken < total {
                request.spoken += 1;
                self.record(&request);
                piece(&request, request.spoken - 1);
            }
        }
        answer(&request.id, result(&request, fault, &self.log));
    }

    fn cancel(&mut self, id: &Value, params: &Value) {
        let wanted = params["key"].as_str();
        let found = self.running.values().find(|request| match wanted {
            Some(key) => request.key() == Some(key),
            None => request.id == params["request"],
        });
        let found = found.cloned();
        if let Some(request) = &found {
            self.running.remove(&request.id.to_string());
            fail(&request.id, -32800, "cancelled", json!({"partial": request.partial()}));
        }
        fs::write(self.log.join("cancelled"), params.to_string()).expect("the log can be written");
        if !id.is_null() {
            answer(id, json!({"cancelled": found.is_some()}));
        }
    }

    fn record(&self, request: &Request) {
        if let Some(key) = request.key() {
            let record = json!({"method": request.method, "params": request.params, "spoken": request.spoken});
            fs::write(self.log.join(key), record.to_string()).expect("the log can be written");
        }
    }

    fn recorded(&self, key: &str) -> Option<Request> {
        let record: Value = serde_json::from_str(&fs::read_to_string(self.log.join(key)).ok()?).ok()?;
        Some(Request {
            method: record["method"].as_str()?.into(),
            params: record["params"].clone(),
            id: Value::Null,
            spoken: usize::try_from(record["spoken"].as_u64()?).ok()?,
            streams: true,
        })
    }
}

fn piece(request: &Request, seq: usize) {
    if request.streams {
        let delta = json!({"content": request.pieces()[seq]});
        let params = json!({"request": request.id, "seq": seq, "delta": delta});
        say(json!({"jsonrpc": "2.0", "method": "stream", "params": params}));
    }
}

fn interrupt(request: &Request) {
    let data = json!({
        "type": "interrupted",
        "retryable": true,
        "partial": request.partial(),
        "seq": request.spoken as i64 - 1,
        "resumable": request.key().is_some(),
    });
    fail(&request.id, 1008, "the worker died", data);
}

fn result(request: &Request, fault: Fault, log: &Path) -> Value {
    let mut text = request.text().to_owned();
    match fault {
        Fault::Babbles => println!("Loading checkpoint shards: 100%"),
        Fault::Roars => println!("{}", "x".repeat(65_537)),
        Fault::Screams => (0..4096).for_each(|_| eprintln!("{}", "y".repeat(1023))),
        Fault::Forks => text = fork(log).to_string(),
        _ => {}
    }
    let usage = json!({"prompt_tokens": 1, "completion_tokens": request.spoken, "total_tokens": request.spoken + 1});
    if request.method == "embed" {
        return json!({"model": "scripted", "embeddings": [[0.1, 0.2]], "usage": usage});
    }
    let mut result =
        json!({"id": "req-1", "model": "scripted", "device": "cpu", "finish_reason": "stop", "usage": usage});
    match request.method.as_str() {
        "chat" => result["message"] = json!({"role": "assistant", "content": text}),
        _ => result["text"] = text.into(),
    }
    result
}

/// Start a process that would live on, and return its number. It holds the pipe `held` of the log, where there is one.
fn fork(log: &Path) -> u32 {
    let held = fs::OpenOptions::new().write(true).open(log.join("held"));
    let stdout = held.map_or_else(|_| Stdio::null(), Stdio::from);
    let child = Command::new("sleep").arg("1000").stdin(Stdio::null()).stdout(stdout).spawn();
    child.expect("there is a program called sleep").id()
}

// A host that does nothing but ping: it spawns a server, keeps DEPTH requests in flight on its stdin, and reports.
//
//     ping_client DEPTH COUNT HELLO -- PROGRAM [ARGUMENT...]
//
// HELLO is a file of lines to send first; where it is not empty, its first line is a request that must be answered.
// Prints one JSON object: replies per second, and the median and 99th percentile of the time to a reply.
// Built by `rustc -O`, without crates.

use std::io::{Read, Write};
use std::process::{exit, Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Instant;

const WARM_UP: usize = 500;
const CHUNK_BYTES: usize = 64 * 1024;

struct Host {
    child: Child,
    stdin: ChildStdin,
    stdout: ChildStdout,
    buffer: Vec<u8>,
    chunk: Vec<u8>,
}

impl Host {
    fn spawn(command: &[String]) -> Host {
        let mut child = Command::new(&command[0])
            .args(&command[1..])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("the server starts");
        let stdin = child.stdin.take().expect("a pipe");
        let stdout = child.stdout.take().expect("a pipe");
        Host { child, stdin, stdout, buffer: Vec::new(), chunk: vec![0; CHUNK_BYTES] }
    }

    fn send(&mut self, data: &[u8]) {
        self.stdin.write_all(data).expect("the server reads");
    }

    /// Waits for bytes, and hands each line that is complete to `on_line`.
    fn receive(&mut self, mut on_line: impl FnMut(&[u8])) {
        let size = self.stdout.read(&mut self.chunk).expect("the server writes");
        if size == 0 {
            eprintln!("the server closed its stdout");
            exit(1);
        }
        self.buffer.extend_from_slice(&self.chunk[..size]);
        let mut start = 0;
        while let Some(length) = self.buffer[start..].iter().position(|&byte| byte == b'\n') {
            on_line(&self.buffer[start..start + length]);
            start += length + 1;
        }
        self.buffer.drain(..start);
    }

    /// Closes stdin and waits for the server to leave.
    fn leave(mut self) -> bool {
        drop(self.stdin);
        drop(self.stdout);
        self.child.wait().expect("the server ends").success()
    }
}

fn push_ping(out: &mut Vec<u8>, id: usize) {
    out.extend_from_slice(b"{\"jsonrpc\":\"2.0\",\"id\":");
    out.extend_from_slice(id.to_string().as_bytes());
    out.extend_from_slice(b",\"method\":\"ping\"}\n");
}

/// The id of a result; None of anything else, such as a notification or an error.
fn id_of_result(line: &[u8]) -> Option<usize> {
    let find = |needle: &[u8]| line.windows(needle.len()).position(|window| window == needle);
    find(b"\"result\"")?;
    let digits = line[find(b"\"id\":")? + 5..].iter().skip_while(|byte| **byte == b' ');
    let mut id = None;
    for byte in digits.take_while(|byte| byte.is_ascii_digit()) {
        id = Some(id.unwrap_or(0) * 10 + (byte - b'0') as usize);
    }
    id
}

fn greet(host: &mut Host, hello: &str) {
    let mut lines = hello.lines();
    let Some(first) = lines.next() else { return };
    host.send(format!("{first}\n").as_bytes());
    let mut answered = false;
    while !answered {
        host.receive(|_| answered = true);
    }
    for line in lines {
        host.send(format!("{line}\n").as_bytes());
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().collect();
    if arguments.len() < 6 || arguments[4] != "--" {
        eprintln!("usage: ping_client DEPTH COUNT HELLO -- PROGRAM [ARGUMENT...]");
        exit(2);
    }
    let depth: usize = arguments[1].parse().expect("DEPTH is a number");
    let count: usize = arguments[2].parse().expect("COUNT is a number");
    let hello = std::fs::read_to_string(&arguments[3]).expect("HELLO is a file");
    let mut host = Host::spawn(&arguments[5..]);
    greet(&mut host, &hello);

    let total = WARM_UP + count;
    let mut sent_at = Vec::with_capacity(total);
    let mut latencies_us = Vec::with_capacity(total);
    let mut answered = vec![false; total];
    let mut began = Instant::now();
    let mut out = Vec::new();
    let mut done = 0;
    while done < total {
        while sent_at.len() < total && sent_at.len() < done + depth {
            push_ping(&mut out, sent_at.len());
            sent_at.push(Instant::now());
        }
        if !out.is_empty() {
            host.send(&out);
            out.clear();
        }
        host.receive(|line| {
            let Some(id) = id_of_result(line) else {
                eprintln!("no result: {}", String::from_utf8_lossy(line));
                exit(1);
            };
            assert!(!std::mem::replace(&mut answered[id], true), "answered twice: {}", id);
            done += 1;
            if done == WARM_UP {
                began = Instant::now();
            }
            if done > WARM_UP {
                latencies_us.push(sent_at[id].elapsed().as_secs_f64() * 1e6);
            }
        });
    }
    let duration_s = began.elapsed().as_secs_f64();
    latencies_us.sort_by(f64::total_cmp);
    let quantile = |part: f64| latencies_us[((latencies_us.len() - 1) as f64 * part) as usize];
    println!(
        "{{\"rate\":{:.0},\"p50_us\":{:.1},\"p99_us\":{:.1},\"left_well\":{}}}",
        count as f64 / duration_s,
        quantile(0.5),
        quantile(0.99),
        host.leave()
    );
}

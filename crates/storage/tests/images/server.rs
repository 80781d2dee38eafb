//! A small HTTP server on the loopback address, which fails as it is told to.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// How one request is answered.
#[derive(Debug, Clone, Copy)]
pub enum Answer {
    /// With this status and no more.
    Status(u16),
    /// As it should, but the connection ends after so many bytes.
    Cut(usize),
    /// As it should, but nothing comes after so many bytes.
    Stall(usize),
    /// With the whole file, whatever part was asked for.
    Whole,
    /// As it should, but it says that so many bytes come.
    Says(usize),
}

/// The server. It ends with the test's process.
pub struct Server {
    address: String,
    ranges: Arc<Mutex<Vec<Option<usize>>>>,
}

impl Server {
    /// One that serves `bytes`, after it has given these answers.
    pub fn start(bytes: Vec<u8>, answers: Vec<Answer>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let ranges = Arc::new(Mutex::new(Vec::new()));
        let asked = ranges.clone();
        std::thread::spawn(move || {
            let mut answers = VecDeque::from(answers);
            // Streams that nothing more comes from.
            let mut stalled = Vec::new();
            for stream in listener.incoming() {
                stalled.extend(serve(stream.unwrap(), &bytes, answers.pop_front(), &asked));
            }
        });
        Self { address, ranges }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// From which byte on the file was asked for, each time.
    pub fn ranges(&self) -> Vec<Option<usize>> {
        self.ranges.lock().unwrap().clone()
    }
}

fn serve(
    mut stream: TcpStream,
    bytes: &[u8],
    answer: Option<Answer>,
    asked: &Mutex<Vec<Option<usize>>>,
) -> Option<TcpStream> {
    let mut range = None;
    for line in BufReader::new(stream.try_clone().unwrap()).lines() {
        let line = line.unwrap().to_ascii_lowercase();
        if let Some(value) = line.strip_prefix("range: bytes=") {
            range = value.trim_end_matches('-').parse::<usize>().ok();
        }
        if line.is_empty() {
            break;
        }
    }
    asked.lock().unwrap().push(range);
    if let Some(Answer::Status(status)) = answer {
        // The client may have gone, here and below.
        let _ = write!(stream, "HTTP/1.1 {status} No\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        return None;
    }
    let from = if matches!(answer, Some(Answer::Whole)) { 0 } else { range.unwrap_or(0) };
    let rest = &bytes[from..];
    let length = rest.len();
    let head = match from {
        0 => "200 OK\r\n".to_owned(),
        _ => format!("206 Partial\r\nContent-Range: bytes {from}-{}/{}\r\n", bytes.len() - 1, bytes.len()),
    };
    let said = if let Some(Answer::Says(said)) = answer { said } else { length };
    let _ = write!(stream, "HTTP/1.1 {head}Content-Length: {said}\r\nConnection: close\r\n\r\n");
    let sent = match answer {
        Some(Answer::Cut(n) | Answer::Stall(n)) => n.min(length),
        _ => length,
    };
    let _ = stream.write_all(&rest[..sent]);
    matches!(answer, Some(Answer::Stall(_))).then_some(stream)
}

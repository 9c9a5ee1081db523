//! HTTP/1.1 on the fake Hub's sockets, and the ways in which an answer goes wrong.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::content::gzip;
use super::fake::{Origin, Seen, State};
use super::routes::{Answer, Payload, Request, answer, body_of};
use super::rules::{Fault, HangUp};

/// Bytes to a write: small enough that what the socket took is close to what the client has.
const CHUNK: usize = 64 << 10;

/// The first byte of a client that takes this for a server with encryption.
const TLS_HANDSHAKE: u8 = 0x16;

/// The longest silence of a stall, should nobody end it.
const LONGEST_STALL: Duration = Duration::from_secs(120);

/// How an answer leaves.
#[derive(Default)]
struct Delivery {
    /// The body ends here, in this way.
    end: Option<(u64, Ending)>,
    /// Bytes per second.
    rate: Option<u64>,
    /// The byte of the body whose lowest bit turns.
    flip: Option<u64>,
    /// Zeros behind the body.
    extra: u64,
    /// The value of Content-Length, where it is not the truth.
    length: Option<u64>,
}

#[derive(Clone, Copy, PartialEq)]
enum Ending {
    Reset,
    Close,
    Stall,
}

/// What becomes of the connection.
#[derive(PartialEq)]
enum After {
    Next,
    Close,
    /// Closing with a byte of the request unread makes the system send a reset.
    CloseAsItIs,
}

/// Answers requests until the connection ends.
pub fn serve(mut stream: TcpStream, origin: Origin, state: &State) {
    let _ = stream.set_nodelay(true);
    while let Some((request, head)) = peek_request(&stream) {
        if state.stopped.load(Ordering::SeqCst) {
            return;
        }
        // All but the last byte, which stays for a reset.
        let mut taken = vec![0; head - 1];
        if stream.read_exact(&mut taken).is_err() {
            return;
        }
        match respond(&mut stream, origin, state, request) {
            Ok(After::Next) => {}
            Ok(After::Close) => {
                let _ = stream.read_exact(&mut [0]);
                return;
            }
            Ok(After::CloseAsItIs) | Err(_) => return,
        }
        if stream.read_exact(&mut [0]).is_err() {
            return;
        }
    }
}

/// The next request and the length of its head, which stays unread.
fn peek_request(stream: &TcpStream) -> Option<(Request, usize)> {
    let mut buffer = vec![0; 32 << 10];
    loop {
        let n = match stream.peek(&mut buffer) {
            Ok(0) => return None,
            Ok(n) => n,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(_) => return None,
        };
        if buffer[0] == TLS_HANDSHAKE {
            let _ = (&*stream).write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n");
            return None;
        }
        if let Some(end) = buffer[..n].windows(4).position(|window| window == b"\r\n\r\n") {
            let head = String::from_utf8_lossy(&buffer[..end]).into_owned();
            let mut lines = head.split("\r\n");
            let mut words = lines.next()?.split(' ');
            let (method, path) = (words.next()?.to_owned(), words.next()?.to_owned());
            let headers = lines.filter_map(|line| line.split_once(':'));
            let headers = headers.map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())).collect();
            return Some((Request { method, path, headers }, end + 4));
        }
        if n == buffer.len() {
            return None;
        }
        std::thread::sleep(Duration::from_millis(1)); // a head in several packets, which is rare
    }
}

fn respond(stream: &mut TcpStream, origin: Origin, state: &State, request: Request) -> std::io::Result<After> {
    let at = Instant::now();
    let mut answer = answer(state, &request);
    let bytes = match &answer.payload {
        Payload::File { start, end, .. } if request.method == "GET" => Some(*start..*end),
        _ => None,
    };
    let fault = state.fault(origin, &request.method, &request.path, bytes.as_ref());
    let mut delivery = Delivery::default();
    let mut hang_up = None;
    if let Some(fault) = &fault {
        hang_up = spoil(&mut answer, &mut delivery, fault, &request);
    }
    let seen = state.record(Seen {
        origin,
        at,
        method: request.method.clone(),
        path: request.path.clone(),
        headers: request.headers,
        status: if hang_up.is_some() { 0 } else { answer.status },
        body: AtomicU64::new(0),
    });
    match hang_up {
        Some(HangUp::Reset) => return Ok(After::CloseAsItIs),
        Some(HangUp::Close) => return Ok(After::Close),
        None => {}
    }
    send(stream, state, &seen, &answer, &delivery)
}

/// Makes the answer wrong.
fn spoil(answer: &mut Answer, delivery: &mut Delivery, fault: &Fault, request: &Request) -> Option<HangUp> {
    let range = match &answer.payload {
        Payload::File { file, start, end } => Some((file.clone(), *start, *end)),
        Payload::Bytes(_) => None,
    };
    match (fault, range) {
        (Fault::Answer { status, headers, body }, _) => {
            *answer = Answer { status: *status, headers: headers.clone(), payload: Payload::Bytes(body.clone()) };
        }
        (Fault::Hang(how), _) => return Some(*how),
        (Fault::ResetAfter(n), _) => delivery.end = Some((*n, Ending::Reset)),
        (Fault::CloseAfter(n), _) => delivery.end = Some((*n, Ending::Close)),
        (Fault::StallAfter(n), _) => delivery.end = Some((*n, Ending::Stall)),
        (Fault::Bandwidth(rate), _) => delivery.rate = Some(*rate),
        (Fault::Delay(time), _) => std::thread::sleep(*time),
        (Fault::ContentLength(by), Some((_, start, end))) => {
            delivery.length = Some((end - start).saturating_add_signed(*by));
        }
        (Fault::IgnoreRange, Some((file, ..))) => {
            answer.status = 200;
            answer.remove("Content-Range");
            answer.payload = Payload::File { start: 0, end: file.content.len(), file };
        }
        (Fault::ContentRange(by), Some((file, start, end))) => {
            let (first, last) = (start.saturating_add_signed(*by), (end - 1).saturating_add_signed(*by));
            answer.status = 206;
            answer.set("Content-Range", format!("bytes {first}-{last}/{}", file.content.len()));
        }
        (Fault::Flip(at), Some((_, start, end))) => delivery.flip = (start..end).contains(at).then(|| at - start),
        (Fault::Short(n), Some((file, start, end))) => {
            let end = end.saturating_sub(*n).max(start);
            resize(answer, start, end, file.content.len().saturating_sub(*n));
            answer.payload = Payload::File { file, start, end };
        }
        (Fault::Long(n), Some((file, start, end))) => {
            resize(answer, start, end + n, file.content.len() + n);
            delivery.extra = *n;
        }
        (Fault::ErrorPage, _) => {
            let page = "<!DOCTYPE html><html><body><h1>Sign in to the network</h1></body></html>";
            *answer = Answer::new(200, &[("Content-Type", "text/html")], page);
        }
        (Fault::Gzip, Some((file, start, end))) => {
            let bytes = file.content.bytes();
            answer.set("Content-Encoding", "gzip");
            answer.payload = Payload::Bytes(gzip(&bytes[start as usize..end as usize]));
        }
        (Fault::Other(file), Some(_)) => *answer = body_of(file, &file.cdn_etag(), request),
        (Fault::Redirect(status, to), _) => {
            *answer = Answer::new(*status, &[("Location", to)], "");
        }
        (Fault::Hops(most), _) => {
            let (path, hop) = request.path.split_once("&hop=").unwrap_or((&request.path, "0"));
            let (path, hop) = path.split_once("?hop=").unwrap_or((path, hop));
            let next = hop.parse::<u32>().unwrap_or(0) + 1;
            if next <= *most {
                let joint = if path.contains('?') { '&' } else { '?' };
                *answer = Answer::new(302, &[("Location", &format!("{path}{joint}hop={next}"))], "");
            }
        }
        (Fault::Headers(headers), _) => {
            for (name, value) in headers {
                answer.remove(name);
                if !value.is_empty() {
                    answer.set(name, value.as_str());
                }
            }
        }
        // A fault of bodies without a body to break: rules do not choose it.
        (_, None) => {}
    }
    None
}

fn resize(answer: &mut Answer, start: u64, end: u64, total: u64) {
    if answer.status == 206 {
        answer.set("Content-Range", format!("bytes {start}-{}/{total}", end.saturating_sub(1)));
    }
}

fn send(
    stream: &mut TcpStream,
    state: &State,
    seen: &Arc<Seen>,
    answer: &Answer,
    delivery: &Delivery,
) -> std::io::Result<After> {
    let len = delivery.extra
        + match &answer.payload {
            Payload::Bytes(bytes) => bytes.len() as u64,
            Payload::File { start, end, .. } => end - start,
        };
    let mut head = format!("HTTP/1.1 {} {}\r\n", answer.status, reason(answer.status));
    for (name, value) in &answer.headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    let has_length = answer.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-length"));
    if answer.status != 304 && !has_length {
        head.push_str(&format!("Content-Length: {}\r\n", delivery.length.unwrap_or(len)));
    }
    head.push_str("\r\n");
    stream.write_all(head.as_bytes())?;
    if seen.method == "HEAD" {
        return Ok(After::Next);
    }

    let until = delivery.end.map_or(len, |(n, _)| n.min(len));
    let mut sent = 0;
    while sent < until {
        let piece = match &answer.payload {
            Payload::Bytes(bytes) => bytes.get(sent as usize..).unwrap_or_default(),
            Payload::File { file, start, end } if start + sent < *end => file.content.at(start + sent),
            Payload::File { .. } => &[],
        };
        let zeros = [0; 512];
        let piece = if piece.is_empty() { &zeros[..] } else { piece };
        // Twenty pieces a second at least, so that a slow body is an even one.
        let chunk = delivery.rate.map_or(CHUNK, |rate| (rate as usize / 20).clamp(1, CHUNK));
        let mut most = chunk.min(piece.len()).min((until - sent) as usize);
        if state.flow.is_limited() {
            most = most.min(16 << 10);
            state.flow.wait_for_room(most, len, &state.stopped);
        }
        if let Payload::File { start, end, .. } = &answer.payload
            && sent < end - start
        {
            most = most.min((end - start - sent) as usize);
        }
        let flipped = delivery.flip.filter(|at| (sent..sent + most as u64).contains(at));
        let taken = match flipped {
            Some(at) => {
                let mut piece = piece[..most].to_vec();
                piece[(at - sent) as usize] ^= 1;
                stream.write(&piece)?
            }
            None => stream.write(&piece[..most])?,
        };
        if taken == 0 {
            return Ok(After::Close);
        }
        sent += taken as u64;
        seen.body.fetch_add(taken as u64, Ordering::Relaxed);
        if let Some(rate) = delivery.rate {
            std::thread::sleep(Duration::from_secs_f64(taken as f64 / rate as f64));
        }
    }
    match delivery.end {
        Some((n, Ending::Reset)) if n <= len => {
            // A reset throws away what the client has not taken yet; it gets a moment for that.
            std::thread::sleep(Duration::from_millis(20));
            Ok(After::CloseAsItIs)
        }
        Some((n, Ending::Close)) if n <= len => Ok(After::Close),
        Some((n, Ending::Stall)) if n <= len => {
            stream.read_exact(&mut [0])?;
            stall(stream, state);
            Ok(After::CloseAsItIs)
        }
        _ if delivery.length.is_some_and(|length| length != len) => Ok(After::Close),
        _ => Ok(After::Next),
    }
}

/// Says nothing until the client goes, the Hub ends, or it has been too long.
fn stall(stream: &TcpStream, state: &State) {
    let start = Instant::now();
    let _ = stream.set_nonblocking(true);
    while start.elapsed() < LONGEST_STALL && !state.stopped.load(Ordering::SeqCst) {
        match stream.peek(&mut [0]) {
            Ok(0) => break,
            Err(error) if error.kind() != ErrorKind::WouldBlock => break,
            _ => std::thread::sleep(Duration::from_millis(10)),
        }
    }
    let _ = stream.set_nonblocking(false);
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Status",
    }
}
